"""Files of calibrated tiers: JSON lines, one for each task that a policy has played.

A line holds `item_id`, `n` (episodes that count), `pass_rate`, `tier`, and what all
lines of a file share: `samples` asked for, `threshold` and the name of the `policy`. A
task is easy if its pass rate is at least the threshold, else hard. Episodes that the
environment lost do not count; a task without any other has no line.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from agentrl import errors, types
from agentrl.transcripts import jsonl

Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TierFile:
    """A tier file, possibly partially written."""

    path: pathlib.Path
    shared: Line  # the fields that all lines share
    lines: dict[str, Line]  # by item id

    def add(self, episodes: Sequence[types.Trajectory]) -> list[Line]:
        """Appends the tasks of `episodes` that the file lacks, and returns their lines."""
        solved: dict[str, list[bool]] = {}
        for episode in episodes:
            item_id = episode.task.item_id
            if not episode.ending.lost and item_id not in self.lines:
                solved.setdefault(item_id, []).append(episode.success)
        new = [self._to_line(*item) for item in solved.items()]
        jsonl.append(self.path, new)
        self.lines.update((line["item_id"], line) for line in new)
        return new

    def _to_line(self, item_id: str, solved: list[bool]) -> Line:
        pass_rate = sum(solved) / len(solved)
        tier = "easy" if pass_rate >= self.shared["threshold"] else "hard"
        found = {"item_id": item_id, "n": len(solved), "pass_rate": pass_rate}
        return {**found, "tier": tier, **self.shared}


def open_tier_file(
    path: pathlib.Path, samples: int, threshold: float, policy: str
) -> TierFile:
    """Opens a tier file for appending; drops a partially written last line.

    Raises:
      ConfigError: if it was written with other samples, threshold or policy.
    """
    shared = {"samples": samples, "threshold": threshold, "policy": policy}
    jsonl.cut(path, lambda line: True)
    lines = list(jsonl.read(path)) if path.exists() else []
    for line in lines:
        other = {name: line.get(name) for name in shared}
        if other != shared:
            raise errors.ConfigError(
                f"{path} holds another calibration: {other}, not {shared}. Choose "
                "another --out, or repeat the command that wrote it."
            )
    return TierFile(path, shared, {line["item_id"]: line for line in lines})

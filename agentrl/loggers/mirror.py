"""A tracker as a copy of `metrics.jsonl`: each point once, whatever happens in between.

A run that is killed repeats the iterations after its last checkpoint, bit for bit, and a
server may be away for a while. `loggers.json` in the working directory says which run of
a tracker belongs to it and what has been sent; the rest is sent as soon as possible,
also what was recorded before a tracker was named.
"""

import collections
import dataclasses
import pathlib
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from agentrl import storage
from agentrl.loggers import points

FILE = "loggers.json"
_PATIENCE = 10  # points between attempts to reach a tracker that does not answer


@dataclasses.dataclass
class Mark:
    """What one tracker has received of a run."""

    path: pathlib.Path  # of `FILE`
    name: str  # of the tracker
    run_id: str
    step: int = -1  # of the last iteration
    evaluations: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def open(cls, workdir: pathlib.Path, name: str) -> "Mark":
        """Reads the mark of a tracker, or makes one for a new run of it.

        Raises:
          DamagedFileError: if the file holds something else.
        """
        path = workdir / FILE
        stored = _read(path).get(name)
        if stored is None:
            return cls(path, name, uuid.uuid4().hex[:12])
        return cls(path, name, stored["run"], stored["step"], stored["evaluations"])

    def covers(self, point: points.Point) -> bool:
        """Whether the tracker has the point."""
        if point.evaluation:
            return point.evaluation in self.evaluations
        return point.step <= self.step

    def add(self, point: points.Point) -> None:
        """Notes that the tracker has it."""
        if point.evaluation:
            self.evaluations.append(point.evaluation)
        else:
            self.step = point.step
        self.save()

    def save(self) -> None:
        """Writes the mark beside those of other trackers."""
        own: dict[str, Any] = {
            "run": self.run_id,
            "step": self.step,
            "evaluations": self.evaluations,
        }
        storage.write_json(self.path, {**_read(self.path), self.name: own})


class Mirror:
    """Passes points on to a tracker, each once; see the module docstring."""

    def __init__(
        self,
        mark: Mark,
        tracker: points.Logger,
        *,
        before: Iterable[points.Point],
        say: Callable[[str], None],
    ):
        """Sends what the tracker lacks.

        Args:
          mark: what it has.
          tracker: receives points.
          before: what the run has recorded up to now.
          say: tells a person.
        """
        self._mark, self._tracker, self._say = mark, tracker, say
        self._waiting = collections.deque(p for p in before if not mark.covers(p))
        self._pause = 0  # points to wait for before the next attempt
        self._failing = False
        mark.save()
        self._send()

    def log(self, point: points.Point) -> None:
        """Sends a point, unless the tracker has it."""
        if not self._mark.covers(point):
            self._waiting.append(point)
        self._pause = max(0, self._pause - 1)
        if not self._pause:
            self._send()

    def close(self, *, failed: bool) -> None:
        """Sends what is left; what cannot be sent is sent by the next session."""
        self._failing = False  # say it once more if it still is
        self._send()
        try:
            self._tracker.close(failed=failed)
        except Exception as error:
            self._complain(error)

    def _send(self) -> None:
        while self._waiting:
            try:
                self._tracker.log(self._waiting[0])
            except Exception as error:  # whatever a client of a server may raise
                self._complain(error)
                self._pause = _PATIENCE
                return
            self._mark.add(self._waiting.popleft())
        self._failing = False

    def _complain(self, error: Exception) -> None:
        if self._failing:
            return
        self._failing = True
        self._say(
            f"log_to: {self._mark.name} does not take metrics ({type(error).__name__}: "
            f"{error}). Training goes on; {len(self._waiting)} points wait in "
            "metrics.jsonl and are sent later, at the latest when the same command is "
            "repeated."
        )


def _read(path: pathlib.Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    advice = "remove it, and trackers get the whole run again as a new one."
    return storage.read_json(path, advice=advice)

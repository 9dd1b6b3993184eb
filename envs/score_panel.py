"""Scores results on a published panel, whatever trainer made them. Standard library only.

    python -m agentrl.envs.panels panels babyai                  # writes babyai_test.json
    python -m agentrl.envs.score_panel panels/babyai_test.json results.jsonl

A line of results is one episode: {"item_id": "babyai_3", "success": true, "score": 0.9};
without `score`, success counts as 1. Every task of the panel has to be played equally
often, and nothing else: what is missing would otherwise choose itself.

This file needs nothing of the package it is part of; it may be copied beside a panel.
"""

import collections
import hashlib
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class ScoreError(ValueError):
    """Panel and results do not belong together."""


class Score(NamedTuple):
    """What came out, over all tasks or those of a subset."""

    name: str  # "all", a difficulty or a subset
    num_tasks: int
    samples: int  # k of avg@k
    success: float  # mean over tasks of the share of solved episodes
    success_error: float  # standard error over tasks
    score: float  # mean over tasks of the mean score
    score_error: float


def read_panel(path: pathlib.Path) -> dict[str, Any]:
    """Reads a panel's file and checks it against its own digest.

    Raises:
      ScoreError: if it is no panel, or was changed.
    """
    try:
        panel = json.loads(path.read_text(encoding="utf-8"))
        ids = [task["item_id"] for task in panel["tasks"]]
        content = "\n".join((panel["version"], panel["split"], *ids))
        expected = panel["digest"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ScoreError(
            f"{path} is no panel: {type(error).__name__}: {error}."
        ) from error
    found = hashlib.sha256(content.encode()).hexdigest()[:12]
    if found != expected:
        raise ScoreError(
            f"{path} was changed: its tasks have digest {found}, it says {expected}."
        )
    return panel


def read_results(path: pathlib.Path) -> list[tuple[str, float, float]]:
    """Reads (task, success, score) of each episode.

    Raises:
      ScoreError: naming the first line that is no episode.
    """
    episodes = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScoreError(f"cannot read {path}: {error}.") from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            success = entry["success"]
            score = float(entry.get("score", success))
            if success not in (True, False) or not math.isfinite(score):
                raise ValueError(f"success = {success!r}, score = {score!r}")
            episodes.append((entry["item_id"], float(success), score))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ScoreError(
                f"{path}:{number}: expected an object with item_id, success (true or "
                f"false) and score; {type(error).__name__}: {error}."
            ) from error
    return episodes


def score(
    panel: Mapping[str, Any], episodes: Sequence[tuple[str, float, float]]
) -> list[Score]:
    """Scores all tasks, then each difficulty and subset.

    Raises:
      ScoreError: if tasks were left out, added, or not played equally often.
    """
    played = collections.defaultdict[str, list[tuple[float, float]]](list)
    for item_id, success, value in episodes:
        played[item_id].append((success, value))
    ids = [task["item_id"] for task in panel["tasks"]]
    if foreign := sorted(played.keys() - set(ids)):
        raise ScoreError(f"{len(foreign)} tasks are not of this panel: {foreign[:5]}.")
    counts = collections.Counter(len(played[item_id]) for item_id in ids)
    if len(counts) != 1 or 0 in counts:
        named = {n: [i for i in ids if len(played[i]) == n][:3] for n in sorted(counts)}
        raise ScoreError(
            "tasks must be played equally often; by number of episodes, for example: "
            f"{named}."
        )
    groups: dict[str, list[str]] = {"all": ids}
    for field in ("tier", "subset"):
        for task in panel["tasks"]:
            if field in task:
                groups.setdefault(task[field], []).append(task["item_id"])
    (samples,) = counts
    return [_score_group(n, [played[i] for i in g], samples) for n, g in groups.items()]


def _score_group(
    name: str, tasks: Sequence[Sequence[tuple[float, float]]], samples: int
) -> Score:
    means = [
        [statistics.fmean(episode[part] for episode in task) for task in tasks]
        for part in (0, 1)
    ]
    errors = [
        statistics.stdev(part) / math.sqrt(len(part)) if len(part) > 1 else math.nan
        for part in means
    ]
    mean = [statistics.fmean(part) for part in means]
    return Score(name, len(tasks), samples, mean[0], errors[0], mean[1], errors[1])


def main(arguments: Sequence[str]) -> None:
    """Prints the panel and a line for each group of tasks."""
    if len(arguments) != 2:
        raise SystemExit("usage: score_panel.py PANEL.json RESULTS.jsonl")
    try:
        panel = read_panel(pathlib.Path(arguments[0]))
        scores = score(panel, read_results(pathlib.Path(arguments[1])))
    except ScoreError as error:
        raise SystemExit(str(error)) from error
    print(
        f"{panel['env']}, {panel['split']}: {panel['version']}, digest {panel['digest']}"
    )
    for group in scores:
        print(
            f"{group.name:24} {group.num_tasks:5} tasks  avg@{group.samples} success "
            f"{group.success:6.1%} (se {group.success_error:.1%})  score "
            f"{group.score:.3f} (se {group.score_error:.3f})"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

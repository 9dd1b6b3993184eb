"""Results of evaluations on fixed task panels: what is stored, and how it is read.

`agentrl.statistics.summaries` makes numbers with intervals of them.

A sample that the environment lost says nothing of the policy. It is None in every table
of a result and enters no statistic: a task with fewer than k finished samples counts
with those it has, and a task without any does not count.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agentrl import errors, storage
from agentrl.statistics import drift

FOLDER = "evaluations"
_TABLES = ("success", "score", "turns", "tokens")  # of a result
RANDOM_FOLDER = "random_policy"  # within it: what chance achieves on the panels
UNTRAINED_STAGE = "untrained"  # the stage of results from before the first one
RANDOM_STAGE = "random policy"  # the stage of these results, and the name of their row


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One policy on one panel; rows are tasks, columns the k samples of each.

    A sample that the environment lost is None in all four tables.
    """

    stage: str  # the stage after which the policy was evaluated
    after_iteration: int  # of that stage
    step: int  # optimizer updates behind the policy
    env: str
    split: str
    tier: str
    panel_version: str
    panel_digest: str
    item_ids: tuple[str, ...]
    success: tuple[tuple[bool | None, ...], ...]
    score: tuple[tuple[float | None, ...], ...]
    turns: tuple[tuple[int | None, ...], ...]
    tokens: tuple[tuple[int | None, ...], ...]  # tokens the policy wrote
    drifts: tuple[drift.Drift, ...] = ()  # from each policy that it was compared with

    @property
    def samples(self) -> int:
        """The k of avg@k."""
        return len(self.success[0])

    @property
    def lost(self) -> tuple[int, ...]:
        """Samples of each task that the environment lost."""
        return tuple(row.count(None) for row in self.success)

    @property
    def num_lost(self) -> int:
        """Samples of all tasks that the environment lost."""
        return sum(self.lost)

    @property
    def num_lost_tasks(self) -> int:
        """Tasks without a finished sample."""
        return self.lost.count(self.samples)

    @property
    def finished(self) -> dict[str, tuple[bool, ...]]:
        """Success of the finished samples of each task that has any, by item id."""
        rows = (
            tuple(success for success in row if success is not None)
            for row in self.success
        )
        return {
            item_id: row
            for item_id, row in zip(self.item_ids, rows, strict=True)
            if row
        }

    @property
    def task_means(self) -> dict[str, float]:
        """Mean success of each task that has a finished sample, by item id."""
        return {item_id: sum(row) / len(row) for item_id, row in self.finished.items()}

    @property
    def mean(self) -> float:
        """The avg@k: mean success over tasks."""
        return float(np.mean(list(self.task_means.values())))

    @property
    def means(self) -> dict[str, float]:
        """Mean over tasks of success, score, turns and tokens, as `mean` has it."""
        return {
            name: float(np.mean([np.mean(row) for row in self._finished_rows(name)]))
            for name in _TABLES
        }

    def _finished_rows(self, name: str) -> list[list[float]]:
        rows = ([x for x in row if x is not None] for row in getattr(self, name))
        return [row for row in rows if row]

    def save(self, workdir: pathlib.Path) -> pathlib.Path:
        """Writes `evaluations/<stage>.<env>.<split>.<tier>.json`; returns its path.

        The file holds the fields of the result, and `lost` for whoever reads only that;
        `drifts` only if any was measured.
        """
        path = find_path(
            workdir, stage=self.stage, env=self.env, split=self.split, tier=self.tier
        )
        record = dataclasses.asdict(self) | {"lost": self.lost}
        if not self.drifts:
            del record["drifts"]
        storage.write_json(path, record, indent=None)
        return path


def find_path(
    workdir: pathlib.Path, *, stage: str, env: str, split: str, tier: str
) -> pathlib.Path:
    """Where the result of a stage on a panel is, or would be."""
    return workdir / FOLDER / f"{stage}.{env}.{split}.{tier}.json"


def save_random(
    workdir: pathlib.Path, env: str, digest: str, result: EvaluationResult | None
) -> None:
    """Stores what the random policy achieves on the panel with this digest.

    Args:
      workdir: of the run, or the directory of an evaluation.
      env: environment of the panel.
      digest: of the panel.
      result: None if there is no random policy for the environment.
    """
    path = workdir / FOLDER / RANDOM_FOLDER / f"{env}.{digest}.json"
    record = None if result is None else dataclasses.asdict(result)
    stored = {"panel_digest": digest, "result": record}
    storage.write_json(path, stored, indent=None)


def load_random(workdir: pathlib.Path) -> dict[str, EvaluationResult | None]:
    """Reads what `save_random` wrote, by the digest of the panel.

    Raises:
      DamagedFileError: if a file holds something else.
    """
    found: dict[str, EvaluationResult | None] = {}
    for path in sorted((workdir / FOLDER / RANDOM_FOLDER).glob("*.json")):
        try:
            stored = storage.read_json(path, advice="remove it.")
            result = stored["result"]
            found[stored["panel_digest"]] = result and _from_record(result)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, errors.DamagedFileError):
                raise
            raise errors.DamagedFileError(
                f"{path} is not a result of the random policy ({type(error).__name__}: "
                f"{error}); remove it to have it played again."
            ) from error
    return found


def load(path: pathlib.Path) -> EvaluationResult:
    """Reads what `EvaluationResult.save` wrote.

    Raises:
      DamagedFileError: if the file holds something else.
    """
    try:
        return _from_record(json.loads(path.read_text()))
    except (KeyError, TypeError, ValueError) as error:
        raise errors.DamagedFileError(
            f"{path} is not the result of an evaluation ({type(error).__name__}: "
            f"{error}); remove it, or evaluate again."
        ) from error


def load_all(
    workdir: pathlib.Path, environments: Iterable[str] = ()
) -> list[EvaluationResult]:
    """All results in a working directory, in the order in which the policy learned.

    Results of one step follow the order of `environments`, then their file names.
    """
    found = [load(path) for path in sorted((workdir / FOLDER).glob("*.json"))]
    place = {env: index for index, env in enumerate(environments)}
    return sorted(found, key=lambda r: (r.step, place.get(r.env, len(place))))


def load_stage(
    workdir: pathlib.Path, stage: str, step: int, environments: Iterable[str] = ()
) -> list[EvaluationResult]:
    """Results of the policy that a stage left, in the order of `load_all`."""
    stored = load_all(workdir, environments)
    return [result for result in stored if (result.stage, result.step) == (stage, step)]


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples succeeds.

      1 - C(n - c, k) / C(n, k)

    HumanEval, https://arxiv.org/abs/2107.03374, section 2.1.

    Raises:
      ValueError: if k exceeds the number of samples.
    """
    if not 0 < k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {num_samples}.")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def _from_record(record: Mapping[str, Any]) -> EvaluationResult:
    fields = dict(record)
    lost = fields.pop("lost", None)  # files of older versions lack it
    result = EvaluationResult(
        **{
            **fields,
            "item_ids": tuple(record["item_ids"]),
            **{name: _to_rows(record[name]) for name in _TABLES},
            "drifts": tuple(map(drift.Drift.from_record, record.get("drifts", ()))),
        }
    )
    tables = [(name, getattr(result, name)) for name in _TABLES]
    tables += [(n, getattr(one, n)) for one in result.drifts for n in drift.TABLES]
    for name, table in tables:
        if len(table) != len(result.item_ids) or len(set(map(len, table))) != 1:
            raise ValueError(f"{name} is not one row of k samples for each task")
        if tuple(row.count(None) for row in table) != result.lost:
            raise ValueError(f"{name} and success do not lack the same samples")
    if lost is not None and tuple(lost) != result.lost:
        raise ValueError(f"lost is {lost}, but success lacks {list(result.lost)}")
    if len(set(result.item_ids)) != len(result.item_ids):
        raise ValueError("a task comes twice")
    if not result.finished:
        raise ValueError("no task has a finished sample")
    return result


def _to_rows(rows: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(row) for row in rows)

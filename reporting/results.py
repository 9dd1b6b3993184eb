"""Results of evaluations on fixed task panels, and the statistics they are read with.

Intervals come from a bootstrap over tasks: the samples of one task share its
difficulty, so tasks are what a new panel would redraw. Two results compare only on the
same tasks, and then task by task, which removes that difficulty from the difference.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agentrl import errors
from reporting import jsonl

FOLDER = "evaluations"
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One policy on one panel; rows are tasks, columns the k samples of each."""

    stage: str  # the stage after which the policy was evaluated
    after_iteration: int  # of that stage
    step: int  # optimizer updates behind the policy
    env: str
    split: str
    tier: str
    panel_version: str
    panel_digest: str
    item_ids: tuple[str, ...]
    success: tuple[tuple[bool, ...], ...]
    score: tuple[tuple[float, ...], ...]
    turns: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[int, ...], ...]  # tokens the policy wrote

    @property
    def samples(self) -> int:
        """The k of avg@k."""
        return len(self.success[0])

    @property
    def task_means(self) -> np.ndarray:
        """Mean success of each task, float64[tasks]."""
        return np.asarray(self.success, np.float64).mean(axis=1)

    def save(self, workdir: pathlib.Path) -> pathlib.Path:
        """Writes `evaluations/<stage>.<env>.<split>.<tier>.json`; returns its path."""
        name = f"{self.stage}.{self.env}.{self.split}.{self.tier}.json"
        path = workdir / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self)) + "\n")
        partial.replace(path)
        return path


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def load(path: pathlib.Path) -> EvaluationResult:
    """Reads what `EvaluationResult.save` wrote.

    Raises:
      DamagedFileError: if the file holds something else.
    """
    try:
        return _from_record(json.loads(path.read_text()))
    except (KeyError, TypeError, ValueError) as error:
        raise jsonl.DamagedFileError(
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


def mean_pass_at_k(result: EvaluationResult, k: int) -> float:
    """`pass_at_k` averaged over the tasks of a result."""
    values = [pass_at_k(len(row), sum(row), k) for row in result.success]
    return float(np.mean(values))


def bootstrap(
    values: np.ndarray, *, num_resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of one number per task, with the percentile interval over tasks.

    Args:
      values: float64[tasks].
      num_resamples: how often the tasks are redrawn, with replacement.
      seed: the same seed gives the same interval.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(values), (num_resamples, len(values)))
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), (tail, 1 - tail))
    return Estimate(float(values.mean()), float(low), float(high))


def avg_at_k(result: EvaluationResult, **options: int) -> Estimate:
    """Mean success over all samples of all tasks, with its interval."""
    return bootstrap(result.task_means, **options)


def paired_difference(
    before: EvaluationResult, after: EvaluationResult, **options: int
) -> Estimate:
    """Gain in avg@k from `before` to `after`, task by task; see `bootstrap`.

    Raises:
      ConfigError: if the two were not measured on the same panel.
    """
    if (before.env, before.panel_digest, before.item_ids) != (
        after.env,
        after.panel_digest,
        after.item_ids,
    ):
        raise errors.ConfigError(
            f"results on different tasks do not compare: '{before.stage}' on "
            f"{_panel_name(before)}, '{after.stage}' on {_panel_name(after)}; evaluate "
            "both on one panel."
        )
    return bootstrap(after.task_means - before.task_means, **options)


def _panel_name(result: EvaluationResult) -> str:
    return (
        f"{result.env} {result.split} ({result.panel_version}, digest "
        f"{result.panel_digest}, {len(result.item_ids)} tasks)"
    )


def _from_record(record: Mapping[str, Any]) -> EvaluationResult:
    tables = ("success", "score", "turns", "tokens")
    result = EvaluationResult(
        **{
            **record,
            "item_ids": tuple(record["item_ids"]),
            **{name: _to_rows(record[name]) for name in tables},
        }
    )
    for name in tables:
        shape = {len(row) for row in getattr(result, name)}
        if len(getattr(result, name)) != len(result.item_ids) or len(shape) != 1:
            raise ValueError(f"{name} is not one row of k samples for each task")
    return result


def _to_rows(rows: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(row) for row in rows)

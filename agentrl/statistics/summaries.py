"""From results of evaluations to numbers with intervals.

Samples that were lost are absent from a result: a task's mean is over its finished
samples, and a task without any is left out.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from agentrl import errors
from agentrl.statistics import intervals, results

Measure = Literal["success", "score"]
# Whom a difference is claimed of: the policies at hand, or others of the same recipe.
Claim = Literal["policies", "recipe"]
BySeed = Sequence[results.EvaluationResult]  # one result per seed, in a fixed order


def task_means(
    result: results.EvaluationResult, measure: Measure = "success"
) -> dict[str, float]:
    """Mean over the finished samples of each task that has some, by item id."""
    return {
        item: float(np.mean(values))
        for item, values in _finished(result, measure).items()
    }


def average(
    found: results.EvaluationResult | BySeed,
    measure: Measure = "success",
    *,
    level: float = intervals.LEVEL,
) -> intervals.Estimate:
    """Mean success or score of a policy, or of the policies of several seeds.

    Shares get `intervals.share`, other scores a t interval.

    Raises:
      ConfigError: if no task has a finished sample, or results are of different panels.
    """
    runs = [found] if isinstance(found, results.EvaluationResult) else list(found)
    table = _table(runs, measure)
    samples = len(runs) * _mean_samples(runs)
    values = table.mean(axis=0)
    if values.min() >= 0 and values.max() <= 1:
        return intervals.share(values, samples=samples, level=level)
    everywhere = (-math.inf, math.inf)
    return intervals.policy_difference(
        [table], step=1 / _mean_samples(runs), limits=everywhere
    )


def pass_at_k(result: results.EvaluationResult, k: int) -> intervals.Estimate:
    """Chance that one of k samples solves a task; see `results.pass_at_k`.

    A task with fewer than k finished samples counts with those it has.

    Raises:
      ValueError: if k exceeds the samples of the evaluation.
    """
    if k > result.samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {result.samples}.")
    rows = list(result.finished.values())
    values = [results.pass_at_k(len(row), sum(row), min(k, len(row))) for row in rows]
    samples = max(1.0, _mean_samples([result]) / k)
    return intervals.share(np.array(values), samples=samples)


def difference(
    before: Mapping[str, BySeed],
    after: Mapping[str, BySeed],
    *,
    measure: Measure = "success",
    claim: Claim = "policies",
) -> intervals.Estimate | None:
    """Mean change over environments of equal weight, task by task.

    Args:
      before: by environment, the results of each seed.
      after: of the same environments, on the same panels, with seeds in the same order.
      measure: what is compared.
      claim: "policies" holds for the policies at hand, "recipe" for other seeds as well.

    Returns:
      The change; None without an environment, and with one seed for a recipe.

    Raises:
      ConfigError: if two results were not measured on the same panel.
    """
    if not before:
        return None
    pairs = {env: (list(before[env]), list(after[env])) for env in before}
    (count,) = {len(runs) for both in pairs.values() for runs in both}
    if claim == "recipe" and count < 2:
        return None
    tables, in_limits = [], True
    for first, second in pairs.values():
        values = _table([*first, *second], measure)
        in_limits = in_limits and values.min() >= 0 and values.max() <= 1
        tables.append(values[count:] - values[:count])
    step = 1 / max(_mean_samples(first) for first, _ in pairs.values())
    limits = (-1.0, 1.0) if in_limits else (-math.inf, math.inf)
    build = (
        intervals.policy_difference
        if claim == "policies"
        else intervals.recipe_difference
    )
    return build(tables, step=step, limits=limits)


def change(
    before: results.EvaluationResult,
    after: results.EvaluationResult,
    measure: Measure = "success",
) -> intervals.Estimate:
    """Change from one policy to another on one panel; see `difference`.

    Raises:
      ConfigError: if the two were not measured on the same panel.
    """
    found = difference({"": [before]}, {"": [after]}, measure=measure)
    assert found is not None
    return found


def check_same_panel(found: BySeed) -> None:
    """Raises `ConfigError` if results were not measured on the same tasks."""
    first = found[0]
    for other in found[1:]:
        same = (first.env, first.panel_digest) == (other.env, other.panel_digest)
        if not same or set(first.item_ids).isdisjoint(other.item_ids):
            raise errors.ConfigError(
                f"results on different tasks do not compare: '{first.stage}' on "
                f"{_panel_name(first)}, '{other.stage}' on {_panel_name(other)}; "
                "evaluate both on one panel."
            )


def common_tasks(found: BySeed) -> tuple[str, ...]:
    """Tasks of which all results have finished samples, in the order of the first."""
    known = [task_means(result) for result in found]
    return tuple(item for item in known[0] if all(item in other for other in known))


def slice_result(
    result: results.EvaluationResult, label: Callable[[str], str]
) -> dict[str, results.EvaluationResult]:
    """A result's parts by a label of item ids, such as a subset or tier; labels sorted."""
    places: dict[str, list[int]] = {}
    for index, item in enumerate(result.item_ids):
        places.setdefault(label(item), []).append(index)
    tables = ("item_ids", "success", "score", "turns", "tokens")
    return {
        name: dataclasses.replace(
            result,
            **{t: tuple(getattr(result, t)[i] for i in chosen) for t in tables},
            drifts=tuple(one.select(chosen) for one in result.drifts),
        )
        for name, chosen in sorted(places.items())
    }


def _finished(
    result: results.EvaluationResult, measure: Measure
) -> dict[str, list[float]]:
    rows = zip(result.item_ids, getattr(result, measure), strict=True)
    found = {
        item: [float(value) for value in row if value is not None] for item, row in rows
    }
    return {item: values for item, values in found.items() if values}


def _table(found: BySeed, measure: Measure) -> np.ndarray:
    """float64[results, tasks] over the tasks that all results have, in their order.

    Raises:
      ConfigError: if the results are of different panels, or have no task in common.
    """
    check_same_panel(found)
    means = [task_means(result, measure) for result in found]
    common = common_tasks(found)
    if not common:
        raise errors.ConfigError(
            f"{len(found)} evaluations have no task of {_panel_name(found[0])} in common: "
            "the environment lost each in one of them. Evaluate again."
        )
    return np.array([[by_task[item] for item in common] for by_task in means])


def _mean_samples(found: BySeed) -> float:
    counts = [
        len(row) for result in found for row in _finished(result, "success").values()
    ]
    return float(np.mean(counts)) if counts else 1.0


def _panel_name(result: results.EvaluationResult) -> str:
    return (
        f"{result.env} {result.split} ({result.panel_version}, digest "
        f"{result.panel_digest}, {len(result.item_ids)} tasks)"
    )

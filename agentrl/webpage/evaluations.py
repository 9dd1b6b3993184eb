"""Evaluations of a run, or of several seeds of it, as tables and charts of the page."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl import config
from agentrl.reporting import tables
from agentrl.statistics import intervals, results, summaries, transfer
from agentrl.webpage import episode_index

ByChance = tables.ByChance


def describe(
    matrix: transfer.ResultMatrix, settings: config.RunConfig, by_chance: ByChance
) -> dict[str, Any]:
    """Returns everything that the page shows of evaluations.

    Args:
      matrix: results after each stage, of one seed or several.
      settings: of the run; with several seeds, of any of them.
      by_chance: what the random policy achieves, by digest of the panel.
    """
    plan = transfer.Plan.of(settings.stages, matrix.stages)
    return {
        "stages": list(matrix.stages),
        "baseline": plan.baseline,
        "notes": tables.panel_notes(matrix),
        "claim": tables.claim_note(matrix),
        "panels": [
            describe_panel(matrix, panel, env, settings, by_chance)
            for env, panel in zip(matrix.environments, matrix.panels, strict=True)
        ],
        "tables": _tables(matrix, settings, by_chance),
    }


def describe_panel(
    matrix: transfer.ResultMatrix,
    panel: str,
    env: str,
    settings: config.RunConfig,
    by_chance: ByChance,
) -> dict[str, Any]:
    """Returns one panel: a row per stage, tasks one by one, turns.

    Tasks and turns are those of the first seed, whose policy is the one at hand.
    """
    rows, tasks, turns = [], {}, {}
    for stage in matrix.stages:
        found = matrix.results_of(stage, panel)
        if not found:
            continue
        rows.append(_row(stage, found))
        tasks[stage] = {
            item: round(mean, 4) for item, mean in found[0].task_means.items()
        }
        turns[stage] = count_by_turns(found[0])
    chance = tables.chance_of_panels(matrix, by_chance).get(panel)
    return {
        "name": panel,
        "env": env,
        "rows": rows,
        "chance": _row(results.RANDOM_STAGE, [chance]) if chance else None,
        "tasks": _by_item(tasks),
        "subsets": [
            episode_index.find_subset(env, item, settings)
            for item in _by_item(tasks)["items"]
        ],
        "turns": turns,
    }


def count_by_turns(result: results.EvaluationResult) -> dict[int, tuple[int, int]]:
    """Counts finished samples and successes by the number of turns they took."""
    counts: dict[int, list[int]] = collections.defaultdict(lambda: [0, 0])
    for turns, success in zip(result.turns, result.success, strict=True):
        for number, solved in zip(turns, success, strict=True):
            if number is not None:
                counts[number][0] += 1
                counts[number][1] += bool(solved)
    return {number: (n, solved) for number, (n, solved) in sorted(counts.items())}


def table_to_json(
    title: str, note: str, first: str, columns: Sequence[str], rows: tables.Rows
) -> dict[str, Any]:
    """Returns a table for the page.

    Args:
      title: heading; may be empty.
      note: what it says, in one or two sentences.
      first: head of the first column.
      columns: heads of the others.
      rows: from `agentrl.reporting.tables`.
    """
    return {
        "title": title,
        "note": note,
        "first": first,
        "columns": list(columns),
        "rows": [
            {"label": label, "cells": [cell_to_json(cell) for cell in cells]}
            for label, cells in rows
        ],
    }


def cell_to_json(cell: tables.Cell) -> dict[str, Any]:
    """Returns what is not empty of a cell."""
    found: dict[str, Any] = {
        name: getattr(cell, name)
        for name in ("text", "note", "mark", "emphasis", "scale", "links")
        if getattr(cell, name)
    }
    if cell.interval is not None:
        found |= estimate_to_json(cell.interval)
    return found


def estimate_to_json(value: intervals.Estimate) -> dict[str, float]:
    """Returns a number and the ends of its interval."""
    return {
        "mean": round(value.mean, 5),
        "low": round(value.low, 5),
        "high": round(value.high, 5),
    }


def _row(stage: str, found: Sequence[results.EvaluationResult]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "stage": stage,
        "success": estimate_to_json(summaries.average(found, "success")),
        "score": estimate_to_json(summaries.average(found, "score")),
        "samples": found[0].samples,
        "tasks": len(found[0].item_ids),
        "turns": round(found[0].means["turns"], 3),
        "tokens": round(found[0].means["tokens"], 2),
        "step": found[0].step,
        "seeds": len(found),
    }
    if len(found) == 1:
        best = summaries.pass_at_k(found[0], found[0].samples)
        row["pass"] = estimate_to_json(best)
    return row


def _by_item(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Returns means by stage as rows of numbers over the same items; None is unknown."""
    items = list(dict.fromkeys(item for means in tasks.values() for item in means))
    means = {stage: [of.get(item) for item in items] for stage, of in tasks.items()}
    return {"items": items, "means": means}


def _tables(
    matrix: transfer.ResultMatrix, settings: config.RunConfig, by_chance: ByChance
) -> dict[str, list[dict[str, Any]]]:
    panels, claim = matrix.panels, tables.claim_note(matrix)
    success = table_to_json(
        "Success",
        "Mean over all samples of all tasks, in percent, with its 95 % interval over "
        "tasks, and the chance that at least one sample of a task succeeds.",
        "after stage",
        panels,
        tables.result_rows(matrix, "success", by_chance),
    )
    score = table_to_json(
        "Score",
        "As the environment itself defines it, in percent of one.",
        "after stage",
        panels,
        tables.result_rows(matrix, "score", by_chance),
    )
    chains = [_chain_table(*of_chain, claim) for of_chain in
              tables.transfer_tables(matrix, settings)]  # fmt: skip
    subsets = [
        table_to_json(
            panel,
            "Small subsets have wide intervals; differences between columns are not "
            "paired.",
            "after stage",
            columns,
            rows,
        )
        for panel, columns, rows in tables.subset_tables(matrix, settings)
    ]
    kept = {
        "results": [success, score],
        "gains": _gain_tables(matrix, settings, claim),
        "chain": [*chains, _forgetting_table(matrix, settings, claim)],
        "subsets": subsets,
    }
    return {name: [t for t in group if t["rows"]] for name, group in kept.items()}


def _gain_tables(
    matrix: transfer.ResultMatrix, settings: config.RunConfig, claim: str
) -> list[dict[str, Any]]:
    corrected = (
        "Bold: differs from zero after Holm's correction for all comparisons of the "
        f"table. {claim}"
    )
    gains = table_to_json(
        "Gains over the warm start",
        "Points over the policy before reinforcement learning, task by task. "
        + corrected,
        "after stage",
        matrix.panels,
        tables.gain_rows(matrix, settings),
    )
    effects = table_to_json(
        "What each stage changed",
        "Points, on the environments that the stage trained on and on the others. "
        + corrected,
        "effect of stage",
        matrix.panels,
        tables.effect_rows(matrix, settings),
    )
    return [gains, effects]


def _forgetting_table(
    matrix: transfer.ResultMatrix, settings: config.RunConfig, claim: str
) -> dict[str, Any]:
    return table_to_json(
        "Forgetting",
        "What the last stage has lost; positive is a loss. An environment's own stage is "
        "fixed by the configuration; the best stage is chosen by the numbers themselves, "
        f"so that row lies above zero by chance alone and has no interval. {claim}",
        "loss at the end",
        matrix.panels,
        tables.forgetting_rows(matrix, settings),
    )


def _chain_table(
    measure: str, columns: list[str], rows: tables.Rows, claim: str
) -> dict[str, Any]:
    return table_to_json(
        f"From the warm start to the end: {measure}",
        "Change on environments that were trained on (Held-In), the others (Held-Out) and "
        "all; backward transfer, since an environment's own stage, and forward transfer, "
        "before the first that trained on it. Tasks are averaged within an environment "
        "first, and environments weigh the same. The last column is the smallest true "
        "difference that a design of this size calls 80 % of the time. These comparisons "
        f"are not corrected for each other. {claim}",
        measure,
        columns,
        rows,
    )


def compare_stages(
    first: Sequence[results.EvaluationResult],
    second: Sequence[results.EvaluationResult],
) -> list[dict[str, Any]]:
    """Compares two runs task by task, on the panels and stages that both have.

    Args:
      first: all results of one run.
      second: of the other.

    Returns:
      For each pair of results on one panel: after the same stage, and after the last
      stage of each. The change is from the first run to the second.
    """
    matrices = [transfer.to_matrix({0: found}) for found in (first, second)]
    found = []
    for panel, env in zip(matrices[0].panels, matrices[0].environments, strict=True):
        ends = [matrix.evaluated(panel) for matrix in matrices]
        if not all(ends):
            continue
        shared = [(stage, stage) for stage in ends[0] if stage in ends[1]]
        last = (ends[0][-1], ends[1][-1])
        for pair in dict.fromkeys([*shared, last]):
            both = [
                matrix.results_of(stage, panel)[0]
                for matrix, stage in zip(matrices, pair, strict=True)
            ]
            compared = _compare(both[0], both[1])
            found.append({"panel": panel, "env": env, "stages": pair, **compared})
    return found


def _compare(
    first: results.EvaluationResult, second: results.EvaluationResult
) -> dict[str, Any]:
    """Returns the paired change and the tasks, or why two results do not compare."""
    if first.panel_digest != second.panel_digest:
        return {"refused": f"other tasks: panel {first.panel_digest}, then "
                           f"{second.panel_digest}"}  # fmt: skip
    items = summaries.common_tasks([first, second])
    if not items:
        return {"refused": "no task has a finished sample in both"}
    means = [result.task_means for result in (first, second)]
    scores = [summaries.task_means(result, "score") for result in (first, second)]
    changed = summaries.change(first, second)
    return {
        "success": estimate_to_json(changed),
        "called": bool(changed.excludes_zero),
        "score": estimate_to_json(summaries.change(first, second, "score")),
        "items": list(items),
        "means": [[round(of[item], 4) for item in items] for of in means],
        "scores": [[round(of[item], 4) for item in items] for of in scores],
    }


def recipe_of(stored: Mapping[str, Any]) -> str:
    """A text that two configurations share if they differ in their seed alone.

    Args:
      stored: the configuration as `run.json` has it.
    """
    hidden = {"seed", "name", "num_env_workers", "save_every", "keep_checkpoints"}
    kept = {name: value for name, value in stored.items() if name not in hidden}
    return repr(sorted(kept.items()))

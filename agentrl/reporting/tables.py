"""Tables of a run's results: rows of cells for the page, and text for a terminal."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import rich.box
import rich.console
import rich.table

from agentrl import config
from agentrl.envs import base, registry
from agentrl.reporting import survey
from agentrl.statistics import drift, intervals, results, summaries, transfer

ONE_SEED = "one seed: holds for this run only"
CLAIMS: dict[summaries.Claim, str] = {
    "policies": "these policies",
    "recipe": "this recipe",
}
NO_RANDOM_POLICY = "no random policy"  # the environment lists no actions
Rows = list[tuple[str, list["Cell"]]]
ByChance = Mapping[str, results.EvaluationResult | None]  # by digest of the panel


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number of a table, and how its interval is drawn below it."""

    text: str = ""
    note: str = ""
    emphasis: bool = False
    mark: str = ""
    interval: intervals.Estimate | None = None  # drawn, on an axis from ...
    scale: Literal["", "share", "change", "loss"] = ""  # 0 to 1, or -1 to 1
    links: tuple[tuple[str, int], ...] = ()  # names and numbers of episodes

    @classmethod
    def of_share(cls, value: intervals.Estimate | None, *notes: str) -> "Cell":
        """Formats a mean of shares in percent, with notes beside its interval."""
        if value is None:
            return cls()
        ends = f"{100 * value.low:.1f} to {100 * value.high:.1f}"
        drawn = value if value.low >= 0 and value.high <= 1 else None
        return cls(
            text=f"{100 * value.mean:.1f}",
            note=" \N{MIDDLE DOT} ".join((ends, *notes)),
            interval=drawn,
            scale="" if drawn is None else "share",
        )

    @classmethod
    def of_difference(
        cls,
        value: intervals.Estimate | None,
        *,
        bad_if_positive: bool = False,
        emphasis: bool | None = None,
        mark: str = "",
    ) -> "Cell":
        """Formats a difference in points; bold if it is called, by default uncorrected."""
        if value is None:
            return cls()
        return cls(
            text=_signed(value.mean),
            note=f"{_signed(value.low)} to {_signed(value.high)}",
            emphasis=value.excludes_zero if emphasis is None else emphasis,
            mark=mark,
            interval=value,
            scale="loss" if bad_if_positive else "change",
        )


def format_table(
    found: Sequence[results.EvaluationResult], by_chance: ByChance | None = None
) -> str:
    """Formats success and score after each stage, and says what the panels are.

    Args:
      found: the results.
      by_chance: what the random policy achieves, for a row of its own.
    """
    if not found:
        return "No evaluation has been stored."
    matrix = transfer.to_matrix({0: found})
    k, known = found[-1].samples, by_chance or {}
    parts = [_format_measure(matrix, "success", f"avg@{k}", known)]
    if any(result.score != _as_numbers(result.success) for result in found):
        parts.append(_format_measure(matrix, "score", f"avg@{k} of the score", known))
    else:
        parts.append("The score equals success in every sample.")
    drifts = [part for result in found if (part := format_drift(result))]
    return "\n".join([*parts, claim_note(matrix), *panel_notes(matrix), *drifts])


def format_drift(result: results.EvaluationResult) -> str:
    """Formats the drift from other policies on a panel; empty if none was measured."""
    if not result.drifts:
        return ""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for name in ("from", "per token", "per episode", "k3, per token", "its entropy"):
        table.add_column(name, justify="left" if name == "from" else "right")
    for one in result.drifts:
        seeds = [drift.Measured(one, result.item_ids, result.tokens)]
        table.add_row(
            one.policy,
            _format_nats(drift.estimate(seeds)),
            _format_nats(drift.estimate(seeds, per="episode")),
            _format_nats(drift.estimate(seeds, what="k3")),
            _format_nats(drift.estimate(seeds, what="entropy")),
        )
    title = f"KL(stage {result.stage} || other) on {result.env}, in nats"
    return _print(f"{title}, with 95 % intervals over tasks", table)


def _format_nats(value: intervals.Estimate | None) -> str:
    if value is None:
        return "nothing sampled"
    return f"{value.mean:.4f}  [{value.low:.4f}, {value.high:.4f}]"


def _print(title: str, table: rich.table.Table) -> str:
    output = io.StringIO()
    console = rich.console.Console(file=output, width=160, no_color=True)
    # Not the table's own title, which is broken up where the table is narrow.
    console.print(f"  {title}", highlight=False)
    console.print(table)
    return output.getvalue().rstrip()


def _format_measure(
    matrix: transfer.ResultMatrix,
    measure: summaries.Measure,
    title: str,
    by_chance: ByChance,
) -> str:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("after stage")
    for panel in matrix.panels:
        table.add_column(panel, justify="right")
    for stage in matrix.stages:
        cells = []
        for panel in matrix.panels:
            shown = [
                _format_estimate(result, measure)
                for result in matrix.results_of(stage, panel)
            ]
            cells.append("".join(shown))
        table.add_row(stage, *cells)
    chance = chance_of_panels(matrix, by_chance)
    if chance:
        shown = [
            NO_RANDOM_POLICY if result is None else _format_estimate(result, measure)
            for result in (chance.get(panel) for panel in matrix.panels)
        ]
        table.add_row(results.RANDOM_STAGE, *shown)
    return _print(f"{title} in %, with 95 % intervals over tasks", table)


def _format_estimate(
    result: results.EvaluationResult, measure: summaries.Measure
) -> str:
    value = summaries.average(result, measure)
    text = f"{100 * value.mean:5.1f}  [{100 * value.low:5.1f}, {100 * value.high:5.1f}]"
    return f"{text}  {result.num_lost} lost" if result.num_lost else text


def _as_numbers(
    rows: tuple[tuple[bool | None, ...], ...],
) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(None if x is None else float(x) for x in row) for row in rows)


def panel_notes(matrix: transfer.ResultMatrix) -> list[str]:
    """Describes the panels, and the episodes that environments lost."""
    latest = {panel: result for (_, _, panel), result in matrix.cells.items()}
    panels = [
        f"{panel}: {len(result.item_ids)} tasks \N{MULTIPLICATION SIGN} "
        f"{result.samples} samples, split {result.split}, tier {result.tier}, "
        f"{result.panel_version}, digest {result.panel_digest}"
        for panel, result in latest.items()
    ]
    losses = [
        f"{panel} after stage {stage}: the environment lost {result.num_lost} of "
        f"{result.samples * len(result.item_ids)} samples, which do not count; "
        f"{result.num_lost_tasks} of {len(result.item_ids)} tasks have no other"
        for (_, stage, panel), result in matrix.cells.items()
        if result.num_lost
    ]
    return panels + losses


def claim_note(matrix: transfer.ResultMatrix) -> str:
    """Says what population the differences hold for."""
    if len(matrix.seeds) < 2:
        return f"{ONE_SEED[0].upper()}{ONE_SEED[1:]}."
    return (
        f'{len(matrix.seeds)} seeds: "these policies" holds for these runs on new tasks, '
        '"this recipe" for other seeds as well.'
    )


def claims_of(matrix: transfer.ResultMatrix) -> list[summaries.Claim]:
    """Returns the claims that the number of seeds allows."""
    return ["policies", "recipe"] if len(matrix.seeds) > 1 else ["policies"]


def result_rows(
    matrix: transfer.ResultMatrix,
    measure: summaries.Measure,
    by_chance: ByChance | None = None,
) -> Rows:
    """Returns mean success or score after each stage, with pass@k beside success.

    The last row is that of the random policy, if it has played.
    """
    rows = [
        (stage, [_result_cell(matrix.results_of(stage, p), measure)
                 for p in matrix.panels])
        for stage in matrix.stages
    ]  # fmt: skip
    chance = chance_of_panels(matrix, by_chance or {})
    if chance:
        rows.append(
            (
                results.RANDOM_STAGE,
                [_chance_cell(chance.get(p), measure) for p in matrix.panels],
            )
        )
    return rows


def chance_of_panels(
    matrix: transfer.ResultMatrix, by_chance: ByChance
) -> dict[str, results.EvaluationResult | None]:
    """Returns what the random policy achieves by panel, where it is known.

    None means that the environment lists no actions to choose from.
    """
    digests = {panel: cell.panel_digest for (*_, panel), cell in matrix.cells.items()}
    return {
        panel: by_chance[digests[panel]]
        for panel in matrix.panels
        if digests[panel] in by_chance
    }


def _chance_cell(
    result: results.EvaluationResult | None, measure: summaries.Measure
) -> Cell:
    if result is None:
        return Cell(NO_RANDOM_POLICY)
    return _result_cell([result], measure)


def _result_cell(
    found: list[results.EvaluationResult], measure: summaries.Measure
) -> Cell:
    if not found:
        return Cell()
    notes = []
    if measure == "success" and len(found) == 1:
        k = found[0].samples
        best = summaries.pass_at_k(found[0], k)
        notes.append(
            f"pass@{k} {100 * best.mean:.1f} "
            f"[{100 * best.low:.1f}, {100 * best.high:.1f}]"
        )
    lost = sum(result.num_lost for result in found)
    if lost:
        notes.append(f"{lost} lost")
    return Cell.of_share(summaries.average(found, measure), *notes)


def subset_tables(
    matrix: transfer.ResultMatrix, settings: config.RunConfig
) -> list[tuple[str, list[str], Rows]]:
    """Success by subset, such as level, depth or type: (panel, subsets, rows).

    Panels with one subset, and of environments that are not registered here, have none.
    """
    found = []
    for env, panel in zip(matrix.environments, matrix.panels, strict=True):
        try:
            spec = registry.get_spec(env)
        except base.EnvConfigError:
            continue
        env_config = settings.environments.get(env, base.EnvConfig())
        rows, names = {}, set()
        for stage in matrix.stages:
            for result in matrix.results_of(stage, panel)[:1]:
                rows[stage] = summaries.slice_result(
                    result, lambda item, s=spec, c=env_config: s.subset(item, c)
                )
                names |= set(rows[stage])
        columns = sorted(names)
        if len(columns) > 1:
            shown = [
                (stage, [_subset_cell(by_name.get(name)) for name in columns])
                for stage, by_name in rows.items()
            ]
            found.append((panel, columns, shown))
    return found


def _subset_cell(result: results.EvaluationResult | None) -> Cell:
    if result is None or not result.finished:
        return Cell()
    count = len(result.finished)
    tasks = "1 task" if count == 1 else f"{count} tasks"
    return Cell.of_share(summaries.average(result), tasks)


def _plan(matrix: transfer.ResultMatrix, settings: config.RunConfig) -> transfer.Plan:
    return transfer.Plan.of(settings.stages, matrix.stages)


def gain_rows(matrix: transfer.ResultMatrix, settings: config.RunConfig) -> Rows:
    """Gains of every reinforcement stage over the policy before the first of them."""
    baseline = _plan(matrix, settings).baseline
    if not baseline:
        return []
    supervised = {stage.name for stage in settings.stages if stage.supervised}
    later = matrix.stages[matrix.stages.index(baseline) + 1 :]
    pairs = [(baseline, s) for s in later if s.split("@")[0] not in supervised]
    return _difference_rows(matrix, pairs, {})


def effect_rows(matrix: transfer.ResultMatrix, settings: config.RunConfig) -> Rows:
    """Returns the change by each stage; panels that it trained on are marked."""
    trained = {
        stage.name: {name for name, _ in stage.mixture.environments}
        for stage in settings.stages
    }
    pairs = list(zip(matrix.stages, matrix.stages[1:], strict=False))
    return _difference_rows(matrix, pairs, trained)


def _difference_rows(
    matrix: transfer.ResultMatrix,
    pairs: Sequence[tuple[str, str]],
    trained: dict[str, set[str]],
) -> Rows:
    """Returns a row per pair of stages and claim; bold after Holm's correction."""
    keys: list[tuple[tuple[str, str], summaries.Claim]] = [
        (pair, claim) for pair in pairs for claim in claims_of(matrix)
    ]
    changes = {
        (pair, claim): [matrix.change(*pair, p, claim=claim) for p in matrix.panels]
        for pair, claim in keys
    }
    flat = [change for row in changes.values() for change in row]
    adjusted = iter(
        intervals.adjust_holm([np.nan if c is None else c.p_value for c in flat])
    )
    rows: Rows = []
    for pair, claim in keys:
        stage, row = pair[1], changes[pair, claim]
        cells = [
            Cell.of_difference(
                change,
                emphasis=next(adjusted) < 1 - intervals.LEVEL,
                mark="trained" if env in trained.get(stage, ()) else "",
            )
            for env, change in zip(matrix.environments, row, strict=True)
        ]
        several = len(claims_of(matrix)) > 1
        rows.append((f"{stage}, {CLAIMS[claim]}" if several else stage, cells))
    return rows


def transfer_tables(
    matrix: transfer.ResultMatrix, settings: config.RunConfig
) -> list[tuple[str, list[str], Rows]]:
    """Returns the chain's summary in success and score: (measure, columns, rows)."""
    plan = _plan(matrix, settings)
    if not plan.baseline or plan.baseline == plan.last:
        return []
    columns = [CLAIMS[claim] for claim in claims_of(matrix)]
    return [
        (name, [*columns, "smallest callable"], _summary_rows(matrix, plan, name))
        for name in ("success", "score")
    ]


def _summary_rows(
    matrix: transfer.ResultMatrix, plan: transfer.Plan, measure: summaries.Measure
) -> Rows:
    found = [
        transfer.summarize(matrix, plan, measure=measure, claim=claim)
        for claim in claims_of(matrix)
    ]
    rows: Rows = []
    for label, name in (
        ("Held-In", "held_in"),
        ("Held-Out", "held_out"),
        ("Overall", "overall"),
        ("backward transfer", "backward"),
        ("forward transfer", "forward"),
    ):
        values = [getattr(summary, name) for summary in found]
        cells = [Cell.of_difference(value) for value in values]
        broadest = values[-1]
        smallest = (
            Cell() if broadest is None or not np.isfinite(broadest.smallest_callable)
            else Cell(f"{100 * broadest.smallest_callable:.1f}")
        )  # fmt: skip
        rows.append((label, [*cells, smallest]))
    blanks = [Cell()] * len(found)
    if measure == "success":
        average = transfer.average_environment(matrix, plan.last)
        worst = transfer.worst_environment(matrix, plan.last)
        rows.append(
            ("average environment, at the end", [Cell.of_share(average), *blanks])
        )
        if worst is not None:
            name, value = worst
            rows.append(
                ("worst environment, at the end", [Cell.of_share(value, name), *blanks])
            )
    return rows


def forgetting_rows(matrix: transfer.ResultMatrix, settings: config.RunConfig) -> Rows:
    """Loss since an environment's own stage, and Chaudhry's maximum beside it."""
    plan = _plan(matrix, settings)
    if len(matrix.stages) < 2:
        return []
    rows: Rows = []
    for claim in claims_of(matrix):
        summary = transfer.summarize(matrix, plan, claim=claim)
        cells = [
            Cell.of_difference(
                summary.forgetting[panel],
                bad_if_positive=True,
                mark=f"since {plan.own[env]}" if summary.forgetting[panel] else "",
            )
            for env, panel in zip(matrix.environments, matrix.panels, strict=True)
        ]
        label = "since its own stage"
        several = len(claims_of(matrix)) > 1
        rows.append((f"{label}, {CLAIMS[claim]}" if several else label, cells))
    losses = [matrix.largest_loss(panel) for panel in matrix.panels]
    shown = [
        Cell() if loss is None else Cell(_signed(loss), "no interval")
        for loss in losses
    ]
    rows.append(("since its best stage", shown))
    return rows


def failure_tables(
    found: survey.Survey, settings: config.RunConfig
) -> list[tuple[str, list[str], Rows]]:
    """Shares of tags in failed episodes, a column for each stage: (env, stages, rows)."""
    tables = []
    environments = dict.fromkeys(env for _, env in found.main_tags)
    for env in environments:
        stages = [s.name for s in settings.stages if (s.name, env) in found.main_tags]
        columns = {stage: found.shares(stage, env) for stage in stages}
        columns = {stage: shares for stage, shares in columns.items() if shares}
        rows: Rows = []
        for row in zip(*columns.values(), strict=True):
            if any(one.count for one in row) or row[0].share is None:
                cells = [
                    _tag_cell(found, stage, env, one)
                    for stage, one in zip(columns, row, strict=True)
                ]
                rows.append((row[0].tag, cells))
        if rows:
            tables.append((env, list(columns), rows))
    return tables


def _tag_cell(found: survey.Survey, stage: str, env: str, one: survey.TagShare) -> Cell:
    if one.share is None:
        return Cell("not detectable")
    drawn = found.find_examples(stage, env, one.tag)
    links = tuple((example.episode.item_id, example.number) for example in drawn)
    episodes = "1 episode" if one.count == 1 else f"{one.count} episodes"
    cell = Cell.of_share(one.share, episodes)
    return dataclasses.replace(cell, links=links)


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")

"""The tables of a study: rows of plain values, written as CSV and shown on its page.

Shares and their differences are in [0, 1] here, with all digits; the page prints points
with one. `claim` says what an interval holds for: "policies", these runs on other tasks,
or "recipe", other seeds as well.
"""

import csv
import datetime
import io
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from agentrl import storage
from agentrl.experiment import files
from agentrl.findings import columns, difficulty, gather
from agentrl.reporting import survey
from agentrl.statistics import drift, intervals, results, summaries, transfer
from agentrl.study import cost
from agentrl.transcripts import episodes, failures

FOLDER = "tables"
Row = columns.Row

MIN_SEEDS = 3  # of a claim about recipes, on the page
_MEASURES: tuple[summaries.Measure, ...] = ("success", "score")


def make(found: gather.Findings) -> dict[str, list[Row]]:
    """All tables, by name."""
    return {
        "results": list(make_results(found)),
        "transfer": correct(make_transfer(found)),
        "forgetting": list(make_forgetting(found)),
        "drift": list(make_drift(found)),
        "difficulty": list(difficulty.make_difficulty(found)),
        "tiers": list(difficulty.make_tiers(found)),
        "failures": list(make_failures(found)),
        "learning": list(make_learning(found)),
        "costs": list(make_costs(found)),
    }


def write(root: pathlib.Path, made: Mapping[str, Sequence[Row]]) -> None:
    """Writes `tables/NAME.csv`; a table without rows has a header only if it is known."""
    for name, rows in made.items():
        text = io.StringIO()
        if rows:
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        storage.write(root / FOLDER / f"{name}.csv", text.getvalue())


def choose_claim(rows: Iterable[Row]) -> summaries.Claim:
    """What a page may claim of differences: recipes from three seeds on.

    With two, the interval for other seeds is right, and too wide to say anything. Cells
    of one seed, which have no rows about recipes, count: nothing is left out for others.
    """
    seeds = [len(row["seeds"].split()) for row in rows]
    return "recipe" if seeds and min(seeds) >= MIN_SEEDS else "policies"


def make_results(found: gather.Findings) -> Iterator[Row]:
    """Success and score after each stage of each cell: of each seed, and of all."""
    for one in found.cells:
        for stage in one.matrix.stages:
            for panel in one.matrix.panels:
                of_seeds = {
                    seed: one.matrix.cells[seed, stage, panel]
                    for seed in one.matrix.seeds
                    if (seed, stage, panel) in one.matrix.cells
                }
                yield from _result_rows(found, one, stage, "", of_seeds)
        for variant, by_seed in one.variants.items():
            for env in one.matrix.environments:
                of_seeds = {
                    seed: result
                    for seed, read in by_seed.items()
                    for result in read
                    if result.env == env
                }
                yield from _result_rows(found, one, one.last, variant, of_seeds)


def _result_rows(
    found: gather.Findings,
    one: gather.CellResults,
    stage: str,
    variant: str,
    of_seeds: Mapping[int, results.EvaluationResult],
) -> Iterator[Row]:
    groups: dict[str, Sequence[results.EvaluationResult]] = {
        str(seed): [result] for seed, result in of_seeds.items()
    }
    if len(groups) > 1:
        groups["all"] = list(of_seeds.values())
    for seeds, group in groups.items():
        for tier, sliced in _slices(found, group).items():
            for measure in _MEASURES:
                yield {
                    "axis": one.cell.axis,
                    "cell": one.cell.name,
                    "seed": seeds,
                    "stage": stage,
                    "variant": variant,
                    "env": group[0].env,
                    "tier": tier,
                    "measure": measure,
                    **columns.spread(summaries.average(sliced, measure)),
                    "tasks": len(sliced[0].item_ids),
                    "samples": sliced[0].samples,
                    "turns": np.mean([r.means["turns"] for r in sliced]),
                    "tokens": np.mean([r.means["tokens"] for r in sliced]),
                    "panel": group[0].panel_digest,
                }


def _slices(
    found: gather.Findings, group: Sequence[results.EvaluationResult]
) -> dict[str, list[results.EvaluationResult]]:
    """All tasks, and each tier of them where a panel holds several."""
    slices = {group[0].tier: list(group)}
    if group[0].tier == "all":
        label = gather.label_tiers(found.study, group[0].env)
        parts = [summaries.slice_result(result, label) for result in group]
        names = [n for n in ("easy", "hard") if all(n in part for part in parts)]
        slices |= {name: [part[name] for part in parts] for name in names}
    return slices


def make_transfer(found: gather.Findings) -> Iterator[Row]:
    """Changes from before reinforcement to a chain's end, and what is made of them."""
    for one in found.cells:
        matrix = one.complete()
        if not matrix.seeds or not one.plan.baseline:
            continue
        for measure in _MEASURES:
            for claim in columns.CLAIMS:
                for what, env, estimate in _differences(one, matrix, measure, claim):
                    if estimate is not None:
                        yield _transfer_row(one, what, env, measure, claim, estimate)
                yield from _gap_rows(found, one, measure, claim)
            yield from _level_rows(one, matrix, measure)


def _differences(
    one: gather.CellResults,
    matrix: transfer.ResultMatrix,
    measure: summaries.Measure,
    claim: summaries.Claim,
) -> Iterator[tuple[str, str, intervals.Estimate | None]]:
    plan = one.plan
    for env, panel in matrix.main_panels().items():
        yield (
            "change",
            env,
            matrix.change(
                plan.baseline, plan.last, panel, measure=measure, claim=claim
            ),
        )
    summary = transfer.summarize(matrix, plan, measure=measure, claim=claim)
    for name in ("held_in", "held_out", "overall", "backward", "forward"):
        yield name, "", getattr(summary, name)


def _gap_rows(
    found: gather.Findings,
    one: gather.CellResults,
    measure: summaries.Measure,
    claim: summaries.Claim,
) -> Iterator[Row]:
    """What a sequence lacks of others, of the seeds that both have."""
    if one.cell.axis != "sequence":
        return
    for name, theirs in _comparisons(found, one):
        seeds = [
            s for s in one.seeds if all(s in other.seeds for other in theirs.values())
        ]
        if not seeds or not theirs:
            continue
        ours = {env: _at_end(one, env, seeds) for env in theirs}
        others = {env: _at_end(cell, env, seeds) for env, cell in theirs.items()}
        estimate = transfer.gap(ours, others, measure=measure, claim=claim)
        if estimate is not None:
            row = _transfer_row(one, name, "", measure, claim, estimate)
            yield row | {"seeds": " ".join(map(str, seeds))}


def _at_end(
    one: gather.CellResults, env: str, seeds: Sequence[int]
) -> list[results.EvaluationResult]:
    """Results of an environment after the last stage of a cell, by seed."""
    return [one.matrix.cells[seed, one.last, env] for seed in seeds]


def _comparisons(
    found: gather.Findings, one: gather.CellResults
) -> Iterator[tuple[str, dict[str, gather.CellResults]]]:
    """Whom a sequence is compared with: by environment, the cell with the other policy."""
    joint = found.find("mixture/equal")
    environments = one.matrix.environments
    if joint is not None:
        yield "gap_to_joint", dict.fromkeys(environments, joint)
    specialists = {env: found.find(f"across/{env}") for env in environments}
    yield "gap_to_specialists", {e: s for e, s in specialists.items() if s is not None}


def _level_rows(
    one: gather.CellResults,
    matrix: transfer.ResultMatrix,
    measure: summaries.Measure,
) -> Iterator[Row]:
    """Average and worst environment at the end of a chain."""
    average = transfer.average_environment(matrix, one.plan.last, measure)
    if average is not None:
        yield _transfer_row(one, "average", "", measure, "policies", average)
    worst = transfer.worst_environment(matrix, one.plan.last, measure)
    if worst is not None:
        yield _transfer_row(one, "worst", worst[0], measure, "policies", worst[1])


def _transfer_row(
    one: gather.CellResults,
    what: str,
    env: str,
    measure: summaries.Measure,
    claim: summaries.Claim,
    estimate: intervals.Estimate,
) -> Row:
    p_value, callable_ = estimate.p_value, estimate.smallest_callable
    level = what in ("average", "worst")
    return {
        "axis": one.cell.axis,
        "cell": one.cell.name,
        "what": what,
        "env": env,
        "measure": measure,
        "claim": claim,
        **columns.spread(estimate),
        "smallest_callable": "" if level or math.isnan(callable_) else callable_,
        "p": "" if level or math.isnan(p_value) else p_value,
        "p_holm": "",
        "seeds": " ".join(map(str, one.seeds)),
        "baseline": one.plan.baseline,
    }


def correct(rows: Iterable[Row]) -> list[Row]:
    """Adds Holm's p-values, of all changes of one axis, measure and claim together."""
    made = list(rows)
    families: dict[tuple[str, ...], list[Row]] = {}
    for row in made:
        if row["what"] == "change" and row["p"] != "":
            family = (row["axis"], row["measure"], row["claim"])
            families.setdefault(family, []).append(row)
    for family in families.values():
        adjusted = intervals.adjust_holm([row["p"] for row in family])
        for row, p_value in zip(family, adjusted, strict=True):
            row["p_holm"] = p_value
    return made


def make_forgetting(found: gather.Findings) -> Iterator[Row]:
    """What an environment loses after its own stage."""
    for one in found.cells:
        matrix = one.complete()
        if not matrix.seeds:
            continue
        for claim in columns.CLAIMS:
            summary = transfer.summarize(matrix, one.plan, claim=claim)
            for panel, estimate in summary.forgetting.items():
                if estimate is None:
                    continue
                loss = summary.largest_loss[panel]
                yield {
                    "axis": one.cell.axis,
                    "cell": one.cell.name,
                    "env": panel,
                    "own_stage": one.plan.own[panel],
                    "last_stage": one.plan.last,
                    "claim": claim,
                    **columns.spread(estimate),
                    "largest_loss": "" if loss is None else loss,
                    "seeds": " ".join(map(str, one.seeds)),
                }


def make_drift(found: gather.Findings) -> Iterator[Row]:
    """KL of each stage's policy from its start and from the base of its chain, in nats."""
    for one in found.cells:
        for place, stage in enumerate(one.cell.stages):
            nodes = {s: c[place] for s, c in one.chains.items() if len(c) > place}
            measured = {s: n for s, n in nodes.items() if n.id in one.drifts}
            for part, other in one.origins[stage.name].items():
                for env in found.study.base.environments:
                    by_seed = {
                        seed: result
                        for seed, node in measured.items()
                        for result in one.drifts[node.id]
                        if result.env == env
                    }
                    for row in _drift_rows(by_seed, other):
                        yield {
                            "axis": one.cell.axis,
                            "cell": one.cell.name,
                            "stage": stage.name,
                            "from": part,
                            "from_stage": other,
                            "env": env,
                            "trained": env in dict(stage.mixture.environments),
                            **row,
                        }


def _drift_rows(
    by_seed: Mapping[int, results.EvaluationResult], other: str
) -> Iterator[Row]:
    """Drift from the policy after a stage: of each seed, and of all."""
    measured = {
        str(seed): drift.Measured(one, result.item_ids, result.tokens)
        for seed, result in by_seed.items()
        for one in result.drifts
        if one.stage == other
    }
    if not measured:
        return
    groups = {seed: [one] for seed, one in measured.items()}
    if len(groups) > 1:
        groups["all"] = list(measured.values())
    result = next(iter(by_seed.values()))
    for seeds, group in groups.items():
        estimates = {
            "": drift.estimate(group),
            "episode_": drift.estimate(group, per="episode"),
            "k3_": drift.estimate(group, what="k3"),
            "entropy_": drift.estimate(group, what="entropy"),
        }
        yield {
            "seed": seeds,
            **{
                prefix + name: value
                for prefix, estimate in estimates.items()
                for name, value in columns.spread(estimate).items()
            },
            "tasks": len(result.item_ids),
            "samples": result.samples,
            "panel": result.panel_digest,
        }


def make_failures(found: gather.Findings) -> Iterator[Row]:
    """Shares of failed episodes with each tag, after each node."""
    for node in found.done_nodes():
        surveyed = survey.Survey()
        for path in survey.find_evaluations(
            found.place.workdir(node), node.stage.name, node.settings
        ):
            for line, episode in enumerate(episodes.read(path), start=1):
                surveyed.add(episode, f"{path}:{line}")
        for env in node.settings.environments:
            failed = surveyed.num_failed(node.stage.name, env)
            for share in surveyed.shares(node.stage.name, env):
                yield {
                    "node": node.id,
                    "seed": node.settings.seed,
                    "stage": node.stage.name,
                    "env": env,
                    "tag": share.tag,
                    "count": share.count,
                    "failed": failed,
                    **columns.spread(share.share),
                    "detectable": share.tag not in failures.find_undetectable(env),
                }


def make_learning(found: gather.Findings) -> Iterator[Row]:
    """Success of training episodes, iteration by iteration."""
    for node in found.done_nodes():
        if node.stage.supervised:
            continue
        shape, stages = node.shape, node.settings.stages
        chain = " > ".join(stage.name for stage in stages)
        for line in cost.read_lines(found.place, node):
            for env, _ in node.stage.mixture.environments:
                yield {
                    "node": node.id,
                    "seed": node.settings.seed,
                    "stage": node.stage.name,
                    "shape": shape,  # which seeds share, and nothing else
                    "chain": chain,
                    "env": env,
                    "iteration": line["iteration"],
                    "success": line.get(f"env/{env}/success"),
                }


def make_costs(found: gather.Findings) -> Iterator[Row]:
    """Seconds of every node, and where they were spent."""
    for node in found.wanted.nodes.values():
        workdir = found.place.workdir(node) / "run.json"
        run = storage.read_json(workdir, advice="") if workdir.exists() else {}
        measured = cost.measure(found.place, node)
        sessions = found.place.sessions(node)
        hosts = {e["host"] for e in sessions if "host" in e}
        last = [run, *run.get("continued", [])][-1]
        yield {
            "node": node.id,
            "seed": node.settings.seed,
            "stage": node.stage.name,
            "state": found.states[node.id],
            "iterations": node.stage.num_iterations,
            "seconds": cost.seconds_spent(found.place, node),
            "seconds_per_iteration": measured.iteration if measured else "",
            "setup_seconds": measured.setup if measured else "",
            "evaluation_seconds": measured.evaluation if measured else "",
            "hosts": " ".join(sorted(hosts)),
            "devices": f"{last['devices']['count']} x {last['devices']['kind']}"
            if "devices" in last
            else "",
            "commit": " ".join(files.find_commits(run, node.stage.name)),
            "date": _to_date(sessions[0]["time"]) if sessions else "",
        }


def _to_date(seconds: float) -> str:
    date = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return date.isoformat(timespec="seconds")

"""The page of a study, from its tables alone; holes are shown as holes."""

import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrl import storage
from agentrl.findings import gather, tables
from agentrl.study_page import (
    answers,
    background,
    blocks,
    charts,
    difficulty,
    values,
)
from agentrl.transcripts import failures

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"


def write(found: gather.Findings) -> pathlib.Path:
    """Writes tables, page and Markdown; returns the path of the page."""
    made = tables.make(found)
    root = found.place.root
    tables.write(root, made)
    sections = dict(build(found, made))
    storage.write(root / MARKDOWN_FILE, blocks.to_markdown(found.study.name, sections))
    storage.write(root / HTML_FILE, blocks.to_html(found.study.name, sections))
    return root / HTML_FILE


def build(
    found: gather.Findings, made: Mapping[str, list[tables.Row]]
) -> Iterator[tuple[str, list[blocks.Block]]]:
    """Yields title and blocks of every section that has something to show."""
    sections = {
        "Answers": _answers(found, made),
        "One environment, tested on all": _across(found, made),
        "Easy and hard tasks": difficulty.build(found, made),
        "Sequences and pairs": _chains(found, made),
        "Drift": _drift(found, made),
        "Mixtures": _levels(found, made, "mixture"),
        "Tested under other settings": _variants(made),
        "Irrelevant text": _levels(found, made, "augmentation"),
        "Controls": _levels(found, made, "control"),
        "Turns and tokens": _turns(found, made),
        "Failures": _failures(found, made),
        "Training curves": _curves(made),
        "The paper's numbers": background.describe_published(found),
        "Costs": background.describe_costs(made),
        "What stands behind it": background.describe_provenance(found, made),
    }
    for title, made_blocks in sections.items():
        if shown := list(made_blocks):
            yield title, shown


def _answers(found: gather.Findings, made: Mapping[str, Any]) -> Iterator[blocks.Block]:
    if found.study.note:
        yield found.study.note
    missing = [s for s in found.states.values() if s != "done"]
    if missing:
        yield (
            f"{len(missing)} of {len(found.states)} nodes are not done yet; what needs "
            f"them is a hole ({blocks.HOLE})."
        )
    if sentences := list(answers.describe(made["transfer"])):
        yield blocks.Points(sentences)


def _across(found: gather.Findings, made: Mapping[str, Any]) -> Iterator[blocks.Block]:
    cells = found.of_axis("across")
    if not cells:
        return
    names = list(found.study.base.environments)
    baseline = next((one.plan.baseline for one in cells if one.plan.baseline), "")
    levels = values.select(
        made["results"], axis="across", measure="success", variant=""
    )
    for measure in ("success", "score"):
        changes = values.select(made["transfer"], axis="across", measure=measure)
        claim = tables.choose_claim(changes)
        changes = values.select(changes, claim=claim)
        rows: list[list[blocks.Cell | str]] = []
        before = dict.fromkeys(("untrained", baseline)) if measure == "success" else ()
        for stage in before:
            of_stage = values.select(levels, stage=stage)
            rows.append([
                stage,
                *(values.find_level(of_stage, env=e) for e in names),
                "", "", "",
            ])  # fmt: skip
        for one in cells:
            own = values.select(changes, cell=one.cell.name)
            rows.append([
                f"trained on {one.cell.name}",
                *(values.points(values.first(values.select(own, what="change", env=env)),
                         marks=("own",) if env == one.cell.name else ())
                  for env in names),
                *(values.find(own, what=what)
                  for what in ("held_in", "held_out", "overall")),
            ])  # fmt: skip
        if not changes:
            continue
        smallest = [
            r["smallest_callable"] for r in changes if r["smallest_callable"] != ""
        ]
        yield blocks.Table(
            [measure, *names, "Held-In", "Held-Out", "Overall"],
            rows,
            f"Levels in % (avg@k), changes against {baseline} in points, "
            f"95 % intervals. {values.CLAIM_NOTES[claim]} {_tell_corrected(changes)} "
            "Smallest differences that the design would have called 4 times in 5: "
            f"{100 * min(smallest):.1f} to {100 * max(smallest):.1f} points."
            f"{_tell_seeds(levels, changes)}",
        )


def _tell_corrected(changes: Sequence[tables.Row]) -> str:
    """Names the changes that differ from zero among all that are shown with them."""
    holm = [row for row in changes if row["what"] == "change" and row["p_holm"] != ""]
    called = [f"{r['cell']} on {r['env']}" for r in holm if r["p_holm"] < 0.05]
    return (
        f"Corrected for the {len(holm)} changes of this table (Holm), these differ from "
        f"zero: {', '.join(called) or 'none'}."
    )


def _tell_seeds(levels: Sequence[tables.Row], changes: Sequence[tables.Row]) -> str:
    """Names the seeds of levels and of changes where these are fewer."""
    of_levels = values.seeds_of(levels)
    of_changes = {row["cell"]: row["seeds"] for row in changes}
    if all(seeds == of_levels for seeds in of_changes.values()):
        return ""
    told = ", ".join(f"{cell} {seeds}" for cell, seeds in of_changes.items())
    return (
        f" Levels are of seeds {of_levels}, changes of those whose chains are done: "
        f"{told}."
    )


def _chains(found: gather.Findings, made: Mapping[str, Any]) -> Iterator[blocks.Block]:
    names = list(found.study.base.environments)
    cells = [one for axis in ("sequence", "pair") for one in found.of_axis(axis)]
    for one in cells:
        if one.matrix.stages:
            yield from _stages(one, names, made)
    yield from _orders(cells, made)
    yield from _forgotten(cells, names, made)


def _stages(
    one: gather.CellResults, names: list[str], made: Mapping[str, Any]
) -> Iterator[blocks.Block]:
    """Success after each stage of a chain; stages that are not done are holes."""
    cell = {"axis": one.cell.axis, "cell": one.cell.name}
    levels = values.select(made["results"], **cell, measure="success", variant="")
    seeds = [" ".join(map(str, one.seeds_after(stage))) for stage in one.stages]
    differ = len(set(filter(None, seeds))) > 1
    rows = [
        [
            label,
            *(
                values.points(
                    values.pooled(values.select(levels, stage=stage, env=env)),
                    level=True,
                )
                for env in names
            ),
        ]
        for label, stage in zip(
            values.name_seeds(one.stages, seeds), one.stages, strict=True
        )
    ]
    told = (
        " In brackets the seeds that have done a stage: from one to the next they differ, "
        "and so do the policies."
    )
    note = f"Success in % after each stage.{told if differ else ''}"
    yield blocks.Table([one.cell.name, *names], rows, note)
    yield blocks.Chart(
        charts.draw_chain(one.matrix, names, one.stages),
        f"{one.cell.name}: success in %"
        f"{', of the seeds that the table names' if differ else ''}",
    )


def _orders(
    cells: Sequence[gather.CellResults], made: Mapping[str, Any]
) -> Iterator[blocks.Block]:
    """What chains end with, and what they lack of other ways to train."""
    kept = [
        row
        for row in values.select(made["transfer"], measure="success")
        if row["axis"] in ("sequence", "pair")
    ]
    claim = tables.choose_claim(kept)
    whats = {
        "average": "policies", "worst": "policies", "overall": claim, "backward": claim,
        "forward": claim, "gap_to_joint": claim, "gap_to_specialists": claim,
    }  # fmt: skip
    if kept:
        yield blocks.Table(
            ["order", *(what.replace("_", " ") for what in whats)],
            [
                [
                    one.cell.name,
                    *(
                        values.find(
                            kept, axis=one.cell.axis, cell=one.cell.name, what=what,
                            claim=of, level=what in ("average", "worst"),
                        )
                        for what, of in whats.items()
                    ),
                ]
                for one in cells
            ],
            "Average and worst environment in % at the end, all else in points; a "
            f"positive gap is what the sequence lacks. {values.CLAIM_NOTES[claim]} "
            f"{values.NOT_CORRECTED}{values.tell_differing(kept)}",
        )  # fmt: skip


def _forgotten(
    cells: Sequence[gather.CellResults], names: list[str], made: Mapping[str, Any]
) -> Iterator[blocks.Block]:
    lost = [row for row in made["forgetting"] if row["axis"] in ("sequence", "pair")]
    claim = tables.choose_claim(lost)
    lost = values.select(lost, claim=claim)
    if lost:
        yield blocks.Table(
            ["forgetting", *names],
            [
                [
                    one.cell.name,
                    *(
                        values.points(
                            values.first(
                                values.select(
                                    lost,
                                    axis=one.cell.axis,
                                    cell=one.cell.name,
                                    env=env,
                                )
                            )
                        )
                        for env in names
                    ),
                ]
                for one in cells
            ],
            "Success after an environment's own stage minus that at the end, in points: "
            f"positive numbers are forgotten. {values.CLAIM_NOTES[claim]} "
            f"{values.NOT_CORRECTED}{values.tell_differing(lost)}",
        )


def _drift(found: gather.Findings, made: Mapping[str, Any]) -> Iterator[blocks.Block]:
    """KL of policies from their start and base, beside what was forgotten meanwhile."""
    if not made["drift"]:
        if found.study.drift_samples:
            yield f"No node's drift is measured yet ({blocks.HOLE})."
        return
    names = list(found.study.base.environments)
    lost = values.select(made["forgetting"], claim="policies")
    rows = [
        row
        for one in found.cells
        for row in (
            *_drifts_of(one, names, made["drift"]),
            *_forgotten_of(one, names, lost),
        )
    ]
    yield blocks.Table(
        ["cell", "after stage", "KL from", *names],
        rows,
        "KL(policy || other) in nats per token that the policy wrote, on its own episodes, "
        "with 95 % intervals for these policies on other tasks; panels that the stage "
        "trained on are marked. Forgotten is success after an environment's own stage "
        f"minus that at the end. {values.NOT_CORRECTED} tables/drift.csv has the drift per "
        "episode too, the estimator k3 and the policy's entropy.",
        folded=len(rows) > blocks.MANY,
    )


def _drifts_of(
    one: gather.CellResults, names: Sequence[str], drifts: Sequence[tables.Row]
) -> Iterator[list[blocks.Cell | str]]:
    """A cell's rows: after each stage, from its start and from the base."""
    labels, rows, seeds = [], [], []
    for stage, origins in one.origins.items():
        same = len(set(origins.values())) == 1
        for part, other in list(origins.items())[: 1 if same else None]:
            wanted = {"axis": one.cell.axis, "cell": one.cell.name, "stage": stage}
            own = values.select(drifts, **wanted, **{"from": part})
            labels.append(stage)
            seeds.append(values.seeds_of(own))
            rows.append([
                f"{'start, base' if same else part} ({other})",
                *(_nats(values.pooled(values.select(own, env=env))) for env in names),
            ])  # fmt: skip
    for label, row in zip(values.name_seeds(labels, seeds), rows, strict=True):
        yield [one.cell.key, label, *row]


def _forgotten_of(
    one: gather.CellResults, names: Sequence[str], lost: Sequence[tables.Row]
) -> Iterator[list[blocks.Cell | str]]:
    own = values.select(lost, axis=one.cell.axis, cell=one.cell.name)
    if own:
        cells = (values.find(own, env=env) for env in names)
        yield [one.cell.key, one.last, "forgotten, points", *cells]


def _nats(row: tables.Row | None) -> blocks.Cell:
    if row is None or row["mean"] == "":
        return blocks.Cell(blocks.HOLE)
    text = f"{row['mean']:z.3f} [{row['low']:z.3f}, {row['high']:z.3f}]"
    return blocks.Cell(text, marks=("own",) if row["trained"] else ())


def _levels(
    found: gather.Findings, made: Mapping[str, Any], axis: str
) -> Iterator[blocks.Block]:
    kept = values.select(made["transfer"], axis=axis, measure="success")
    claim = tables.choose_claim(kept)
    kept = [
        row
        for row in kept
        if row["claim"] == claim or row["what"] in ("average", "worst")
    ]
    names = list(dict.fromkeys(r["env"] for r in kept if r["what"] == "change"))
    if not kept:
        return
    yield blocks.Table(
        [axis, *names, "average, %", "worst, %"],
        [
            [
                name,
                *(values.find(kept, cell=name, what="change", env=env)
                  for env in names),
                *(values.find(kept, cell=name, what=what, level=True)
                  for what in ("average", "worst")),
            ]
            for name in (one.cell.name for one in found.of_axis(axis))
        ],
        f"Change of success in points. {values.CLAIM_NOTES[claim]} {_tell_corrected(kept)}"
        f"{values.tell_differing(kept)}",
    )  # fmt: skip


def _variants(made: Mapping[str, Any]) -> Iterator[blocks.Block]:
    rows = values.select(made["results"], measure="success")
    varied = {(row["axis"], row["cell"]) for row in rows if row["variant"]}
    kept = [row for row in rows if (row["axis"], row["cell"]) in varied]
    names = list(dict.fromkeys(row["env"] for row in kept))
    shown: list[list[blocks.Cell | str]] = []
    for axis, cell in dict.fromkeys((row["axis"], row["cell"]) for row in kept):
        own = values.select(kept, axis=axis, cell=cell)
        tests = list(dict.fromkeys((row["stage"], row["variant"]) for row in own))
        parts = [values.select(own, stage=s, variant=v) for s, v in tests]
        labels = values.name_seeds(
            [stage for stage, _ in tests], list(map(values.seeds_of, parts))
        )
        for (_, variant), label, part in zip(tests, labels, parts, strict=True):
            levels = (values.find_level(part, env=env) for env in names)
            tested = variant or "the run's evaluation"
            shown.append([f"{axis}/{cell}", label, tested, *levels])
    if shown:
        yield blocks.Table(
            ["cell", "after stage", "tested with", *names], shown, "Success in %."
        )


def _turns(found: gather.Findings, made: Mapping[str, Any]) -> Iterator[blocks.Block]:
    rows = []
    for one in found.of_axis("across"):
        env = one.cell.name
        of_cell = values.select(
            made["results"],
            axis="across",
            cell=env,
            env=env,
            measure="success",
            variant="",
        )
        # Of the same seeds before and after: those whose chains are done.
        kept = [row for row in of_cell if row["seed"] in map(str, one.seeds)]
        before, after = (
            values.select(kept, stage=s) for s in (one.plan.baseline, one.plan.last)
        )
        if before and after:
            means = {
                name: [
                    statistics.fmean(row[name] for row in of) for of in (before, after)
                ]
                for name in ("turns", "tokens")
            }
            arrow = "\N{RIGHTWARDS ARROW}"
            rows.append([env, *(f"{b:.1f} {arrow} {a:.1f}" for b, a in means.values())])
    if rows:
        yield blocks.Table(
            ["trained and tested on", "turns", "tokens written"],
            rows,
            "Means of episodes before and after reinforcement.",
        )


def _failures(
    found: gather.Findings, made: Mapping[str, Any]
) -> Iterator[blocks.Block]:
    kept = made["failures"]
    for one in found.of_axis("across"):
        env = one.cell.name
        chains = [chain for s, chain in one.chains.items() if s in one.seeds]
        if not chains or len(chains[0]) < 2:
            continue
        before, after = (chains[0][place].id for place in (-2, -1))
        rows = []
        for tag in dict.fromkeys(row["tag"] for row in kept):
            both = [
                values.first(values.select(kept, node=node, env=env, tag=tag))
                for node in (before, after)
            ]
            if any(row and row["count"] for row in both):
                rows.append([tag, *(values.points(row, level=True) for row in both)])
        counts = [
            next((r["failed"] for r in kept if (r["node"], r["env"]) == (n, env)), 0)
            for n in (before, after)
        ]
        hidden = sorted(failures.find_undetectable(env))
        if rows:
            yield blocks.Table(
                [f"{env}: failed episodes with the tag, %", "before", "after"],
                rows,
                f"Seed {chains[0][-1].settings.seed}; {counts[0]} failed episodes before, "
                f"{counts[1]} after; an episode may carry several tags. No rule can see "
                f"here: {', '.join(hidden) or 'none'}.",
            )


def _curves(made: Mapping[str, Any]) -> Iterator[blocks.Block]:
    """A chart for the nodes that differ in their seed alone: stages are in many chains."""
    for shape in dict.fromkeys(row["shape"] for row in made["learning"]):
        rows = values.select(made["learning"], shape=shape)
        count = 1 + max(row["iteration"] for row in rows)
        yield blocks.Chart(
            charts.draw_curves(rows),
            f"{rows[0]['chain']}: success of training episodes, in %, of {count} "
            "iterations",
        )

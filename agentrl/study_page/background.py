"""What stands behind the numbers of a page: others' numbers, costs, commits, panels."""

from collections.abc import Iterator, Mapping
from typing import Any

from agentrl.findings import gather
from agentrl.study import work
from agentrl.study_page import blocks


def describe_published(found: gather.Findings) -> Iterator[blocks.Block]:
    """The paper's numbers, as published."""
    if found.study.published:
        yield blocks.Table(
            ["published", "model", "before", "after", "source"],
            [
                [p.what, p.model, p.before, p.after, p.source]
                for p in found.study.published
            ],
            "As published, without seeds or intervals. Ours, above, are of another model "
            "and other tasks: compare signs, not sizes.",
        )


def describe_costs(made: Mapping[str, Any]) -> Iterator[blocks.Block]:
    """What each node took."""
    rows = made["costs"]
    total = sum(row["seconds"] for row in rows)
    yield blocks.Table(
        [
            *("node", "seed", "stage", "state", "iterations", "time"),
            *("s / iteration", "devices"),
        ],
        [
            [
                row["node"], str(row["seed"]), row["stage"], row["state"],
                str(row["iterations"]),
                work.describe_seconds(row["seconds"]) if row["seconds"] else blocks.HOLE,
                f"{row['seconds_per_iteration']:.2f}"
                if row["seconds_per_iteration"] != ""
                else blocks.HOLE,
                row["devices"],
            ]
            for row in rows
        ],
        f"In all {work.describe_seconds(total)} of processes, evaluation included.",
        folded=len(rows) > blocks.MANY,
    )  # fmt: skip


def describe_provenance(
    found: gather.Findings, made: Mapping[str, Any]
) -> Iterator[blocks.Block]:
    """Seeds, commits and panels."""
    commits = sorted({c[:12] for row in made["costs"] for c in row["commit"].split()})
    seeds = ", ".join(map(str, found.study.seeds))
    yield f"Seeds {seeds}. Commits {', '.join(commits) or 'unknown'}." + (
        " Nodes of several commits are compared: numbers may differ for that reason."
        if len(commits) > 1
        else ""
    )
    panels: dict[tuple[str, ...], int] = {}
    for row in made["results"]:
        if not row["variant"]:  # which repeats a panel under other settings
            key = (row["env"], row["panel"], str(row["samples"]))
            # Rows of tiers are parts of a panel: the largest is all of it.
            panels[key] = max(panels.get(key, 0), row["tasks"])
    yield blocks.Table(
        ["environment", "panel", "tasks", "samples"],
        [
            [env, panel, str(tasks), samples]
            for (env, panel, samples), tasks in panels.items()
        ],
    )

"""Tables of easy and hard tasks: how ways of training on them compare."""

from collections.abc import Iterator, Sequence

from agentrl.findings import columns, gather
from agentrl.statistics import summaries

# Ways of training on easy and hard tasks that are compared with each other.
_CONTRASTS = (("easy", "hard"), ("easy>hard", "mixed"), ("easy>hard", "hard>easy"))


def make_difficulty(found: gather.Findings) -> Iterator[columns.Row]:
    """Easy and hard tasks after each way of training on an environment.

    Each is compared with the policy before it, and some with each other, over the seeds
    that both have.
    """
    trained = {one.cell.name: one for one in found.of_axis("within") if one.seeds}
    for name, one in trained.items():
        env, _, training = name.partition(" ")
        sides = [(one, one.plan.baseline), (one, one.last)]
        yield from _difficulty_rows(found, env, training, "", sides)
        for other in (b for a, b in _CONTRASTS if a == training):
            if compared := trained.get(f"{env} {other}"):
                sides = [(compared, compared.last), (one, one.last)]
                yield from _difficulty_rows(found, env, training, other, sides)


def _difficulty_rows(
    found: gather.Findings,
    env: str,
    training: str,
    compared_with: str,
    sides: Sequence[tuple[gather.CellResults, str]],
) -> Iterator[columns.Row]:
    """The change from the first of two policies to the other, by tier and claim.

    A policy is a cell with one of its stages.
    """
    label = gather.label_tiers(found.study, env)
    cells = [one.complete().cells for one, _ in sides]
    seeds = [seed for seed in sides[0][0].seeds if seed in sides[1][0].seeds]
    names = [[(seed, stage, env) for seed in seeds] for _, stage in sides]
    if not seeds or not all(
        key in of_side
        for of_side, keys in zip(cells, names, strict=True)
        for key in keys
    ):
        return
    parts = [
        [summaries.slice_result(of_side[key], label) for key in keys]
        for of_side, keys in zip(cells, names, strict=True)
    ]
    for tier in ("easy", "hard"):
        if not all(tier in part for side in parts for part in side):
            continue
        before, after = ([part[tier] for part in side] for side in parts)
        for claim in columns.CLAIMS:
            change = summaries.difference({env: before}, {env: after}, claim=claim)
            if change is not None:
                yield {
                    "env": env,
                    "trained_on": training,
                    "compared_with": compared_with,
                    "tier": tier,
                    "claim": claim,
                    "before": summaries.average(before).mean,
                    "after": summaries.average(after).mean,
                    **columns.spread(change),
                    "tasks": len(before[0].item_ids),
                    "seeds": " ".join(map(str, seeds)),
                }


def make_tiers(found: gather.Findings) -> Iterator[columns.Row]:
    """The tier of each task of the panels that hold several, as the study divides them."""
    for env in found.study.base.environments:
        label = gather.label_tiers(found.study, env)
        items = {
            item: None
            for one in found.cells
            for (_, _, panel), result in one.matrix.cells.items()
            if panel == env and result.tier == "all"
            for item in result.item_ids
        }
        for item in items:
            yield {"env": env, "item_id": item, "tier": label(item)}

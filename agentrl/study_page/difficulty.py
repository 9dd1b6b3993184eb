"""Easy and hard tasks of one environment: how ways of training on them compare."""

from collections.abc import Iterator, Mapping, Sequence

from agentrl.findings import gather, tables
from agentrl.study_page import blocks, values

TIERS = ("easy", "hard")


def build(
    found: gather.Findings, made: Mapping[str, Sequence[tables.Row]]
) -> Iterator[blocks.Block]:
    """Yields a table for each environment; trainings that are not done are holes."""
    trainings: dict[str, list[gather.CellResults]] = {}
    for one in found.of_axis("within"):
        trainings.setdefault(one.cell.name.partition(" ")[0], []).append(one)
    claim = tables.choose_claim(made["difficulty"])
    kept = values.select(made["difficulty"], claim=claim)
    for env, of_axis in trainings.items():
        of_env = values.select(kept, env=env)
        if not of_env:
            yield f"No training on {env} is done yet ({blocks.HOLE})."
            continue
        before = _find_before(made["results"], of_axis, env)
        yield blocks.Table(
            [f"{env}, trained on", "easy tasks", "hard tasks"],
            [
                [
                    f"({before[0]['stage'].replace('_', ' ')})",
                    *(values.find_level(before, tier=tier) for tier in TIERS),
                ],
                *_changes(of_env, [o.cell.name.partition(" ")[2] for o in of_axis]),
                *_contrasts(of_env),
            ],
            "Success in % before, changes of it in points, and differences between two "
            f"ways of training, on the same tasks. {values.CLAIM_NOTES[claim]} "
            f"{values.NOT_CORRECTED}{_tell_seeds(before, of_env)}",
        )


def _find_before(
    levels: Sequence[tables.Row], trainings: Sequence[gather.CellResults], env: str
) -> list[tables.Row]:
    """Levels of the policy that all trainings start from."""
    one = next(one for one in trainings if one.seeds)
    return values.select(
        levels,
        axis="within",
        cell=one.cell.name,
        stage=one.plan.baseline,
        variant="",
        env=env,
        measure="success",
    )


def _changes(
    of_env: Sequence[tables.Row], names: Sequence[str]
) -> Iterator[list[blocks.Cell | str]]:
    alone = values.select(of_env, compared_with="")
    for name in names:
        own = values.select(alone, trained_on=name)
        yield [name, *(values.find(own, tier=tier) for tier in TIERS)]


def _contrasts(of_env: Sequence[tables.Row]) -> Iterator[list[blocks.Cell | str]]:
    pairs = [(row["trained_on"], row["compared_with"]) for row in of_env]
    for name, other in dict.fromkeys(pair for pair in pairs if pair[1]):
        own = values.select(of_env, trained_on=name, compared_with=other)
        cells = (values.find(own, tier=tier) for tier in TIERS)
        yield [f"{name} less {other}", *cells]


def _tell_seeds(before: Sequence[tables.Row], of_env: Sequence[tables.Row]) -> str:
    """Names the seeds of each row where they differ."""
    alone = values.select(of_env, compared_with="")
    seeds = {row["trained_on"]: row["seeds"] for row in alone}
    seeds = {"before": values.seeds_of(before)} | seeds
    if len(set(seeds.values())) < 2:
        return ""
    return f" Seeds: {', '.join(f'{name} {of}' for name, of in seeds.items())}."

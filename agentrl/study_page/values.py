"""Rows of a study's tables as cells of its page, and the notes beneath them."""

from collections.abc import Sequence

from agentrl.findings import tables
from agentrl.study_page import blocks

NOT_CORRECTED = "Not corrected for several comparisons."
CLAIM_NOTES = {
    "policies": (
        "Intervals hold for these policies on other tasks, not for other seeds: there "
        f"are fewer than {tables.MIN_SEEDS}."
    ),
    "recipe": (
        "Intervals of differences hold for other seeds of the same recipe (two-way "
        "variance over seeds and tasks)."
    ),
}


def select(rows: Sequence[tables.Row], **wanted: str) -> list[tables.Row]:
    """Rows with these values."""
    return [row for row in rows if all(row[k] == v for k, v in wanted.items())]


def points(row: tables.Row | None, *, level: bool = False, marks=()) -> blocks.Cell:
    """A cell in percent (a level) or points (a difference), with its interval."""
    if row is None or row["mean"] == "":
        return blocks.Cell(blocks.HOLE)
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    if level:
        return blocks.Cell(f"{mean:z.1f} [{low:z.1f}, {high:z.1f}]")
    unsure = ("unsure",) if low <= 0 <= high else ()
    return blocks.Cell(
        f"{mean:+z.1f} [{low:+z.1f}, {high:+z.1f}]", mean / 100, (*unsure, *marks)
    )


def first(rows: Sequence[tables.Row]) -> tables.Row | None:
    """The first row, if there is any."""
    return rows[0] if rows else None


def pooled(rows: Sequence[tables.Row]) -> tables.Row | None:
    """The row of all seeds together, or that of the only one."""
    return first(select(rows, seed="all") or list(rows))


def seeds_of(rows: Sequence[tables.Row]) -> str:
    """The seeds that a pooled row is of, such as "0 1"."""
    return " ".join(dict.fromkeys(row["seed"] for row in rows if row["seed"] != "all"))


def name_seeds(labels: Sequence[str], seeds: Sequence[str]) -> list[str]:
    """Adds its seeds to each label where they differ: rows of others do not compare."""
    if len(set(filter(None, seeds))) < 2:
        return list(labels)
    return [
        f"{label} (of {of})" if of else label
        for label, of in zip(labels, seeds, strict=True)
    ]


def find(
    rows: Sequence[tables.Row], *, level: bool = False, marks=(), **wanted: str
) -> blocks.Cell:
    """The first row with these values, as `points` shows it."""
    return points(first(select(rows, **wanted)), level=level, marks=marks)


def find_level(rows: Sequence[tables.Row], **wanted: str) -> blocks.Cell:
    """A level with these values in table `results`, of all seeds together."""
    return points(pooled(select(rows, **wanted)), level=True)


def tell_differing(rows: Sequence[tables.Row]) -> str:
    """Names the seeds of each cell, and of each gap to others, where they differ."""
    names: dict[str, str] = {}
    for row in rows:
        gap = row["what"].replace("_", " ") if "gap_to" in row.get("what", "") else ""
        if not gap or row["seeds"] != names.get(row["cell"]):
            names[f"{gap} of {row['cell']}" if gap else row["cell"]] = row["seeds"]
    if len(set(names.values())) < 2:
        return ""
    return f" Seeds: {', '.join(f'{name} {seeds}' for name, seeds in names.items())}."

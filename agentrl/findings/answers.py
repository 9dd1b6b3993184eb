"""Sentences made from intervals: what a study can say, and what it cannot."""

from collections.abc import Iterator, Sequence

from agentrl.findings import gather, tables

_NAMES = {
    "held_in": "itself (Held-In)",
    "held_out": "the others (Held-Out)",
    "overall": "all (Overall)",
}


def describe(found: gather.Findings, rows: Sequence[tables.Row]) -> Iterator[str]:
    """Yields one sentence for each question that the numbers bear on."""
    kept = [row for row in rows if row["measure"] == "success"]
    claim = tables.choose_claim(kept)
    kept = [row for row in kept if row["claim"] == claim]
    if kept and claim == "policies":
        yield (
            f"Fewer than {tables.MIN_SEEDS} seeds: what follows holds for these runs "
            "only, not for the recipes."
        )
    across = [row for row in kept if row["axis"] == "across"]
    for cell in dict.fromkeys(row["cell"] for row in across):
        changes = {row["what"]: _tell(row) for row in across if row["cell"] == cell}
        told = [f"{name} by {changes[w]}" for w, name in _NAMES.items() if w in changes]
        yield f"Training on {cell} changed success on {', on '.join(told)}."
    for row in kept:
        corrected = row["p_holm"]
        called = row["axis"] == "across" and corrected != "" and corrected < 0.05
        if called and row["cell"] != row["env"]:
            yield (
                f"Training on {row['cell']} changed {row['env']} by {_tell(row)}, also "
                "when corrected for all changes of the axis."
            )
    for row in kept:
        if row["axis"] == "control" and row["what"] == "change" and row["mean"] != "":
            trained = row["cell"].removeprefix("shuffled ")
            if trained == row["env"]:
                yield (
                    f"With shuffled returns, training on {trained} changed it by "
                    f"{_tell(row)}."
                )
        if row["axis"] == "sequence" and row["what"] == "gap_to_joint":
            yield (
                f"The order {row['cell']} ends below joint training with the same budget "
                f"by {_tell(row)}."
            )


def _tell(row: tables.Row) -> str:
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    numbers = f"{mean:+z.1f} points [{low:+z.1f}, {high:+z.1f}]"
    return f"{numbers} (not called a difference)" if low <= 0 <= high else numbers

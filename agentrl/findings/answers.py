"""Sentences made from intervals: what a study can say, and what it cannot."""

from collections.abc import Iterator, Sequence

from agentrl.findings import gather, tables

_NAMES = {
    "held_in": "itself (Held-In)",
    "held_out": "the environments it was not trained on (Held-Out)",
    "overall": "all environments (Overall)",
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
    for row in kept:
        if row["axis"] == "across" and row["what"] in _NAMES:
            yield (
                f"Training on {row['cell']} changed success on {_NAMES[row['what']]} by "
                f"{_tell(row)}"
            )
    for row in kept:
        corrected = row["p_holm"]
        called = row["axis"] == "across" and corrected != "" and corrected < 0.05
        if called and row["cell"] != row["env"]:
            yield (
                f"Training on {row['cell']} changed {row['env']} by {_tell(row)} "
                "Corrected for all changes of the axis, too."
            )
    for row in kept:
        if row["axis"] == "control" and row["what"] == "change" and row["mean"] != "":
            trained = row["cell"].removeprefix("shuffled ")
            if trained == row["env"]:
                yield (
                    f"With shuffled returns, training on {trained} changed it by "
                    f"{_tell(row)}"
                )
        if row["axis"] == "sequence" and row["what"] == "gap_to_joint":
            yield (
                f"The order {row['cell']} lacks {_tell(row, sign=False)} of joint "
                "training with the same budget."
            )


def _tell(row: tables.Row, *, sign: bool = True) -> str:
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    form = "+.1f" if sign else ".1f"
    numbers = f"{mean:{form}} points [{low:{form}}, {high:{form}}]"
    return f"{numbers}: not called a difference." if low <= 0 <= high else f"{numbers}."

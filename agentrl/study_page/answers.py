"""Sentences made from intervals: what a study can say, and what it cannot."""

from collections.abc import Iterator, Sequence

from agentrl.findings import tables

_NAMES = {
    "held_in": "itself (Held-In)",
    "held_out": "the others (Held-Out)",
    "overall": "all (Overall)",
}
_CORRECTED = "when corrected for all changes of the axis"


def describe(rows: Sequence[tables.Row]) -> Iterator[str]:
    """Yields one sentence for each question that the numbers bear on.

    Args:
      rows: of the table `transfer`.
    """
    few, sentences = [], []
    for axis, tell in _AXES.items():
        kept = [r for r in rows if (r["axis"], r["measure"]) == (axis, "success")]
        claim = tables.choose_claim(kept)
        told = list(tell([row for row in kept if row["claim"] == claim]))
        sentences += told
        if told and claim == "policies":
            few.append(axis)
    if few:
        yield (
            f"Fewer than {tables.MIN_SEEDS} seeds in cells of {' and '.join(few)}: what "
            f"follows of {'it' if len(few) == 1 else 'them'} holds for these runs only, "
            "not for the recipes."
        )
    if sentences:
        yield (
            "Intervals are not corrected for several comparisons; a sentence that was "
            "also tested corrected (Holm) says so."
        )
    yield from sentences


def _tell_across(rows: Sequence[tables.Row]) -> Iterator[str]:
    for cell in dict.fromkeys(row["cell"] for row in rows):
        changes = {row["what"]: _tell(row) for row in rows if row["cell"] == cell}
        told = [f"{name} by {changes[w]}" for w, name in _NAMES.items() if w in changes]
        yield f"Training on {cell} changed success on {', on '.join(told)}."
    for row in rows:
        if row["cell"] != row["env"] and _is_called(row):
            yield (
                f"Training on {row['cell']} changed {row['env']} by {_tell(row)}, also "
                f"{_CORRECTED}."
            )


def _tell_control(rows: Sequence[tables.Row]) -> Iterator[str]:
    for row in rows:
        trained = row["cell"].removeprefix("shuffled ")
        if row["what"] == "change" and trained == row["env"]:
            differs = not row["low"] <= 0 <= row["high"]
            also = f", {'also' if _is_called(row) else 'but not'} {_CORRECTED}"
            yield (
                f"With shuffled returns, training on {trained} changed it by "
                f"{_tell(row)}{also if differs else ''}."
            )


def _tell_sequence(rows: Sequence[tables.Row]) -> Iterator[str]:
    for row in rows:
        if row["what"] == "gap_to_joint":
            # The row is what the order lacks: a sign that a sentence would have to explain.
            yield (
                f"Against joint training with as many episodes, the order {row['cell']} "
                f"ended at {_tell(_negate(row))}."
            )


_AXES = {"across": _tell_across, "control": _tell_control, "sequence": _tell_sequence}


def _is_called(row: tables.Row) -> bool:
    """Whether a change differs from zero among all of its axis."""
    return row["p_holm"] != "" and row["p_holm"] < 0.05


def _negate(row: tables.Row) -> tables.Row:
    return row | {"mean": -row["mean"], "low": -row["high"], "high": -row["low"]}


def _tell(row: tables.Row) -> str:
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    numbers = f"{mean:+z.1f} points [{low:+z.1f}, {high:+z.1f}]"
    return f"{numbers} (not called a difference)" if low <= 0 <= high else numbers

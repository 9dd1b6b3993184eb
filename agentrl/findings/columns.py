"""Rows of a study's tables: plain values, shares and differences in [0, 1]."""

from typing import Any

from agentrl.statistics import intervals, summaries

Row = dict[str, Any]
CLAIMS: tuple[summaries.Claim, ...] = ("policies", "recipe")


def spread(estimate: intervals.Estimate | None) -> Row:
    """Columns of a number with its interval; empty ones where there is none."""
    if estimate is None:
        return {"mean": "", "low": "", "high": ""}
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}

"""Line charts as inline SVG."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentrl.statistics import summaries, transfer

_COLORS = ("#3b7dd8", "#d9772b", "#3f9c5a", "#a55bc0", "#c23b4e", "#8a7b3c")
_WIDTH, _HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 90, 10, 34


def draw_chain(
    matrix: transfer.ResultMatrix, names: Sequence[str], stages: Sequence[str]
) -> str:
    """Success after each stage, a line for each environment with its interval.

    Args:
      matrix: results of a chain.
      names: environments.
      stages: of the whole chain; those without results are left open.
    """
    lines = {}
    for env in names:
        estimates = [
            summaries.average(found)
            if (found := matrix.results_of(stage, env))
            else None
            for stage in stages
        ]
        lines[env] = [
            None if e is None else (100 * e.mean, 100 * e.low, 100 * e.high)
            for e in estimates
        ]
    return draw_lines(lines, stages)


def draw_curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Success over iterations: a line for each environment and seed of one shape."""
    lines: dict[str, list[tuple[float, float, float] | None]] = {}
    count = 1 + max(row["iteration"] for row in rows)
    for row in rows:
        name = f"{row['env']}, seed {row['seed']}"
        line = lines.setdefault(name, [None] * count)
        if row["success"] is not None:
            line[row["iteration"]] = (100 * row["success"],) * 3
    return draw_lines(lines, [str(n) for n in range(count)])


def draw_lines(
    lines: Mapping[str, Sequence[tuple[float, float, float] | None]],
    labels: Sequence[str],
) -> str:
    """Lines in percent over equal steps, with bands where an interval has a width.

    Args:
      lines: by name, (value, low, high) of each step; None leaves a gap.
      labels: of the steps; a few are shown.
    """
    parts = [
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}' "
        "role='img'>"
    ]
    for share in (0, 50, 100):
        y = _y(share)
        parts.append(
            f"<line x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y}' y2='{y}' "
            f"stroke='currentColor' stroke-opacity='.15'/>"
            f"<text x='{_LEFT - 6}' y='{y + 4}' text-anchor='end'>{share}</text>"
        )
    for step in np.unique(
        np.linspace(0, len(labels) - 1, min(len(labels), 4), dtype=int)
    ):
        anchor = "start" if step == 0 else "middle"
        parts.append(
            f"<text x='{_x(step, len(labels))}' y='{_HEIGHT - 12}' "
            f"text-anchor='{anchor}'>{html.escape(labels[step])[:16]}</text>"
        )
    for place, (name, line) in enumerate(lines.items()):
        parts.append(_draw_line(name, line, place, len(labels)))
    return "".join([*parts, "</svg>"])


def _draw_line(
    name: str,
    line: Sequence[tuple[float, float, float] | None],
    place: int,
    count: int,
) -> str:
    color = _COLORS[place % len(_COLORS)]
    known = [(step, value) for step, value in enumerate(line) if value is not None]
    path = " ".join(f"{_x(step, count)},{_y(v[0])}" for step, v in known)
    upper = [f"{_x(step, count)},{_y(v[2])}" for step, v in known]
    lower = [f"{_x(step, count)},{_y(v[1])}" for step, v in reversed(known)]
    return (
        f"<polygon points='{' '.join(upper + lower)}' fill='{color}' fill-opacity='.12'/>"
        f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='1.8'/>"
        f"<text x='{_WIDTH - _RIGHT + 8}' y='{_TOP + 12 + 13 * place}' "
        f"style='fill: {color}'>{html.escape(name)}</text>"
    )


def _x(step: int, count: int) -> float:
    width = _WIDTH - _LEFT - _RIGHT
    return round(_LEFT + width * step / max(count - 1, 1), 1)


def _y(percent: float) -> float:
    return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - percent / 100), 1)

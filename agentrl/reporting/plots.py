"""Line charts as inline SVG that takes its colours and font from the page around it."""

import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np

COLORS = (
    "#3b82f6",
    "#f0883e",
    "#2ea56f",
    "#a371f7",
    "#e5534b",
    "#14a3a3",
    "#c69026",
    "#d2609f",
    "#7d8590",
    "#8b949e55",  # pale: what is left after nine others
)
_INK, _LINE = "#010203", "#040506"  # stand-ins for colours of the page
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "agentrl",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}


def draw_lines(
    series: Sequence[np.ndarray],
    *,
    borders: Sequence[tuple[int, str]] = (),
    percent: bool = False,
    logarithmic: bool = False,
) -> str:
    """Draws curves, each as measured (thin) and as a running mean (bold).

    Args:
      series: curves float64[points], in the order of `COLORS`; NaN leaves a gap.
      borders: index at which a stage begins, and its name.
      percent: y is a fraction, shown as 0 to 100 %.
      logarithmic: a logarithmic y axis, for what spans decades; a linear one if no
        value is positive.

    Returns:
      An `<svg>` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = matplotlib.figure.Figure(figsize=(4.6, 2.35), layout="constrained")
        axes = figure.add_subplot()
        starts = [start for start, _ in borders]
        for color, y in zip(itertools.cycle(COLORS), series, strict=False):
            axes.plot(y, color=color, alpha=0.3, linewidth=1)
            axes.plot(running_mean(y, starts), color=color, linewidth=1.8)
        if logarithmic and any(np.any(y > 0) for y in series):  # zeros have no place
            axes.set_yscale("log")
        if percent:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        for start, name in borders:
            axes.axvline(start, color=_LINE, linewidth=1)
            axes.annotate(
                name,
                (start, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, 2),
                textcoords="offset points",
                fontsize=9,
            )
        axes.margins(x=0.01)
        return _to_svg(figure)


def running_mean(values: np.ndarray, starts: Sequence[int] = ()) -> np.ndarray:
    """Averages over a centred window of a fifteenth of the curve, without NaN.

    No window reaches across one of `starts`: what a stage changes must stay visible.
    """
    half = max(1, len(values) // 30)
    out = np.full(len(values), np.nan)
    edges = [0, *starts, len(values)]
    for start, end in itertools.pairwise(edges):
        for index in range(start, end):
            window = values[max(start, index - half) : min(end, index + half + 1)]
            if np.isfinite(values[index]):
                out[index] = np.nanmean(window)
    return out


def _to_svg(figure: matplotlib.figure.Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 var(--font)", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace(_INK, "currentColor").replace(_LINE, "var(--line)")

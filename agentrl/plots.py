"""Line charts as inline SVG that takes its colours and font from the page around it."""

import io
import re
from collections.abc import Mapping, Sequence
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
    "#8b949e",
)
_INK, _LINE = "#010203", "#040506"  # stand-ins for colours of the page
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "agentrl",
    "font.size": 9,
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
    "legend.frameon": False,
}

Series = Mapping[str, tuple[np.ndarray, np.ndarray]]  # label -> x, y; both float64[N]


def draw_lines(
    series: Series,
    *,
    borders: Sequence[tuple[float, str]] = (),
    percent: bool = False,
    logarithmic: bool = False,
) -> str:
    """Draws curves, each as measured (thin) and as a running mean (bold).

    Args:
      series: one curve per label; NaN leaves a gap.
      borders: where a stage begins on the x axis, and its name.
      percent: y is a fraction, shown as 0 to 100 %.
      logarithmic: a logarithmic y axis, for what spans decades.

    Returns:
      An `<svg>` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = matplotlib.figure.Figure(figsize=(4.6, 2.35), layout="constrained")
        axes = figure.add_subplot()
        for color, (label, (x, y)) in zip(
            _colors(len(series)), series.items(), strict=True
        ):
            axes.plot(x, y, color=color, alpha=0.3, linewidth=1)
            axes.plot(x, running_mean(y), color=color, linewidth=1.8, label=label)
        if logarithmic:
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
                fontsize=7.5,
            )
        axes.margins(x=0.01)
        if len(series) > 1:
            axes.legend(fontsize=8, loc="best")
        return _to_svg(figure)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window of a fifteenth of the curve, NaN left out."""
    half = max(1, len(values) // 30)
    out = np.full(len(values), np.nan)
    for index in range(len(values)):
        window = values[max(0, index - half) : index + half + 1]
        if np.isfinite(values[index]):
            out[index] = np.nanmean(window)
    return out


def _colors(count: int) -> Sequence[str]:
    return [COLORS[index % len(COLORS)] for index in range(count)]


def _to_svg(figure: matplotlib.figure.Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 var(--font)", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace(_INK, "currentColor").replace(_LINE, "var(--line)")

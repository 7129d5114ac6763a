"""Plots as PNG bytes. Figures are objects of their own: nothing global is touched."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

SIZE, RESOLUTION = (6.4, 4.0), 110  # inches, dots an inch
MARKERS = "osD^vP*X<>hp"


@dataclass
class Series:
    """A line or a cloud of points.

    Args:
        x: numbers, or words.
        error: (low, high) of each point, where it is known.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    error: Sequence[tuple[float, float]] | None = None
    line: bool = True


def plot(series: Iterable[Series], x: str, y: str, log: str = "", bands: Iterable[Any] = ()) -> bytes:
    """``log``: the axes that are logarithmic, such as "x" or "xy". ``bands``: (name, x, middle, low, high) of fits."""
    figure = Figure(figsize=SIZE, dpi=RESOLUTION, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, one in enumerate(series):
        draw(axes, one, number)
    for number, (name, at, middle, low, high) in enumerate(bands):
        (line,) = axes.plot(at, middle, "--", color=f"C{number + 6}", label=name, linewidth=1)
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel=x, ylabel=y, xscale="log" if "x" in log else "linear", yscale="log" if "y" in log else "linear")
    if "y" in log and axes.get_ylim()[1] < 10 * axes.get_ylim()[0]:  # of less than a decade, "6.4" says more than "6.4 x 10^0"
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(fontsize=7, loc="outside lower center", ncols=2)  # where it hides no point
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def draw(axes: Any, one: Series, number: int) -> None:
    style = {"color": f"C{number}", "marker": MARKERS[number % len(MARKERS)], "markersize": 5, "label": one.name}
    if one.error is None:
        axes.plot(one.x, one.y, linestyle="-" if one.line else "none", **style)
    else:
        middle, (low, high) = np.array(one.y), np.array(one.error).T
        spread = np.clip([middle - low, high - middle], 0, None)
        axes.errorbar(one.x, one.y, yerr=spread, linestyle="-" if one.line else "none", capsize=2, **style)

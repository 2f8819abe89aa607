"""Heat maps of matrices over blocks, and their drawing for a paper."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots.charts.canvas import head, label_outside, panel_grid, settle

COLOURS = "cividis"
"""Sequential, and the same to colour-blind eyes (Nuñez et al. 2018); matplotlib and Plotly both have it."""

_NUMBERED = 16
"""Cells of all panels side by side up to which each has room for its number."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One matrix."""

    title: str
    values: np.ndarray
    """(row, block), rows from the top; NaN if not measured."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Matrices on one scale of colours."""

    panels: tuple[Grid, ...]
    x_label: str
    y_label: str
    value_label: str
    limits: tuple[float, float]
    """Values at the ends of the colours; what lies outside has the colour of the end."""
    rows: tuple[str, ...] = ()
    """Names of the rows, from the top; without any they are blocks, as the columns are."""
    columns: int = 2
    """Panels side by side."""


def draw_heat_map(chart: HeatMap) -> Figure:
    """The matrices one column wide, some side by side, the scale of colours below them."""
    columns = min(chart.columns, len(chart.panels))
    shapes = {grid.values.shape for grid in chart.panels}
    height = 1.5 if chart.rows else 1.75 if columns > 1 else 3.2
    figure, axes = panel_grid(len(chart.panels), columns=columns, panel_height=height, share=len(shapes) == 1)
    image = None
    for axis, grid in zip(axes, chart.panels, strict=True):
        image = axis.imshow(
            grid.values, cmap=COLOURS, vmin=chart.limits[0], vmax=chart.limits[1],
            aspect="auto" if chart.rows else "equal",
        )  # fmt: skip
        head(axis, grid.title, columns=columns)
        _finish(axis, chart)
        if max(shape[1] for shape in shapes) * columns <= _NUMBERED:
            _number(axis, grid, middle=sum(chart.limits) / 2)
    label_outside(axes, columns=columns, x_label=chart.x_label, y_label=chart.y_label)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, location="bottom", extend=_beyond(chart), aspect=40, pad=0.02)
        bar.set_label(chart.value_label)
    return settle(figure)


def _finish(axis: Axes, chart: HeatMap) -> None:
    axis.grid(visible=False)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if chart.rows:
        axis.set_yticks(range(len(chart.rows)), chart.rows, parse_math=False)


def _number(axis: Axes, grid: Grid, *, middle: float) -> None:
    """The number of every cell, white on dark and black on light colours."""
    for row, column in np.argwhere(np.isfinite(grid.values)):
        value = float(grid.values[row, column])
        ink = "white" if value < middle else "black"
        axis.text(column, row, _two_digits(value), ha="center", va="center", fontsize=5, color=ink)


def _two_digits(value: float) -> str:
    """Without the zero before the point, which costs room."""
    return f"{value:z.2f}".replace("-0.", "-.").removeprefix("0")


def _beyond(chart: HeatMap) -> str:
    """At which ends of the colours values lie outside."""
    values = np.concatenate([grid.values[np.isfinite(grid.values)] for grid in chart.panels])
    below, above = values.min() < chart.limits[0], values.max() > chart.limits[1]
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[int(below), int(above)]

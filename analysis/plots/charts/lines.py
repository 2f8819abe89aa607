"""Charts of curves in panels, and their drawing for a paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.plots.charts.canvas import (
    NEUTRAL,
    dot,
    head,
    label_outside,
    panel_grid,
    scale_axis,
    settle,
    whole_numbers,
)
from analysis.plots.charts.scales import Scale, view

Style = Literal["solid", "dashed", "dotted"]
Curve = tuple[Sequence[float], Sequence[float]]
"""x and y."""

_ALONE = 2.2
"""Inches that a single panel is high."""

_HEIGHTS: Mapping[int, float] = MappingProxyType({1: 1.65, 2: 1.4, 3: 1.4, 4: 1.3})
_LEAST = 1.15
"""Inches that panels side by side are high, by the number of rows; the last holds for more rows."""

FAINT = 0.5
"""Opacity of the curve of one seed."""
_THIN = 0.5
"""Its width in points."""

_CROWDED = 16
_SMALL = 1.8
"""Points from which dots would touch one another, and how large they are then."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve with the interval around it, or with the curves that it is the mean of."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    """Lower edge of the band; equal to `y` if there is none."""
    high: Sequence[float]
    seeds: tuple[Curve, ...] = ()
    """The curve of every seed, where they are too few for a band."""
    style: Style = "solid"
    strength: float = 1.0
    """Opacity, which tells apart the curves of one series that come in an order."""
    marked: frozenset[float] = frozenset()
    """Positions on the x-axis that carry a dot."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines that share axes."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Panels with common axes, and what the legend says."""

    panels: tuple[Panel, ...]
    x_label: str
    y_label: str
    scale: Scale = "linear"
    x_scale: Scale = "linear"
    limits: tuple[float, float] | None = None
    """Of the y-axis; by default what the lines need."""
    styles: Mapping[Style, str] = field(default_factory=dict)
    """What solid, dashed and dotted mean."""
    strengths: Mapping[float, str] = field(default_factory=dict)
    """What an opacity means."""
    mark: str = ""
    """What a dot means."""
    columns: int = 2
    """Most panels side by side."""

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines of all panels."""
        return tuple(line for panel in self.panels for line in panel.lines)

    @property
    def view(self) -> tuple[float, float]:
        """Limits of the y-axis."""
        if self.limits:
            return self.limits
        edges = np.concatenate([_reach(line) for line in self.lines])
        return view(values_of(self.lines), edges, self.scale)

    @property
    def x_view(self) -> tuple[float, float]:
        """Limits of the x-axis."""
        places = np.concatenate([np.asarray(line.x, dtype=float) for line in self.lines])
        return view(places, places, self.x_scale)


def values_of(lines: Sequence[Line]) -> np.ndarray:
    """The values of all lines in one array."""
    return np.concatenate([np.asarray(line.y, dtype=float) for line in lines]) if lines else np.empty(0)


def _reach(line: Line) -> list[float]:
    """Every height that something of the line has."""
    return [*line.low, *line.high, *(y for _, heights in line.seeds for y in heights)]


def draw_lines(chart: LineChart) -> Figure:
    """The chart one column wide."""
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    height = _ALONE if columns == 1 else _HEIGHTS.get(rows, _LEAST)
    figure, axes = panel_grid(len(chart.panels), columns=columns, panel_height=height, entries=_legend(chart))
    for axis, panel in zip(axes, chart.panels, strict=True):
        _draw_panel(axis, panel, chart)
    label_outside(axes, columns=columns, x_label=chart.x_label, y_label=chart.y_label)
    return settle(figure)


def _draw_panel(axis: Axes, panel: Panel, chart: LineChart) -> None:
    draw_on(axis, panel.lines)
    head(axis, panel.title, columns=min(chart.columns, len(chart.panels)))
    whole_numbers(axis)
    if chart.x_scale != "linear":
        scale_axis(axis, "x", chart.x_scale, chart.x_view)
    scale_axis(axis, "y", chart.scale, chart.view)


def draw_on(axis: Axes, lines: Sequence[Line]) -> None:
    """Lines with their bands or seeds, without anything else of a chart."""
    for line in lines:
        for x, y in line.seeds:
            axis.plot(
                x, y, color=line.colour, linestyle=line.style, alpha=FAINT * line.strength,
                linewidth=_THIN, marker="",
            )  # fmt: skip
        dots = [index for index, x in enumerate(line.x) if x in line.marked]
        axis.plot(
            line.x, line.y, linestyle=line.style, color=line.colour, alpha=line.strength, marker="o",
            markersize=_SMALL if len(line.x) > _CROWDED else None,
            markevery=dots if len(line.x) > 1 else None,
        )  # fmt: skip
        if np.any(np.asarray(line.high) > np.asarray(line.low)):
            axis.fill_between(
                line.x, line.low, line.high, color=line.colour, alpha=0.18 * line.strength, linewidth=0
            )


def _legend(chart: LineChart) -> list[Line2D]:
    """An entry per series (colour), then per meaning of style, opacity and dot."""
    # a series with several styles is identified by its colour; the styles follow
    looks: dict[str, set[Style]] = {}
    for line in chart.lines:
        looks.setdefault(line.label, set()).add(line.style)
    colours = {line.label: line.colour for line in chart.lines}
    entries = [
        Line2D([], [], color=colour, label=label, linestyle=_common(looks[label]))
        for label, colour in colours.items()
    ]
    for style, meaning in chart.styles.items():
        entries.append(Line2D([], [], color=NEUTRAL, linestyle=style, label=meaning))
    for strength, meaning in chart.strengths.items():
        entries.append(Line2D([], [], color=NEUTRAL, alpha=strength, label=meaning))
    if chart.mark:
        entries.append(dot(chart.mark))
    return entries


def _common(styles: set[Style]) -> Style:
    return next(iter(styles)) if len(styles) == 1 else "solid"

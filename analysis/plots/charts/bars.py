"""Charts of stacked bars, one stack per block in order of depth, and their drawing for a paper."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.plots.charts.canvas import dot, head, label_outside, panel_grid, settle

MARK_COLOUR = "#D55E00"


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One part of every stack."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    """Lower end of the interval; equal to `y` if there is none."""
    high: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class BarPanel:
    """Stacks of parts, the first part at the bottom."""

    title: str
    bars: tuple[Bars, ...]
    marked: frozenset[float] = frozenset()
    """Places on the x-axis whose stack carries a mark."""

    @property
    def tops(self) -> dict[float, float]:
        """Height of every stack."""
        heights: dict[float, float] = {}
        for part in self.bars:
            for x, y in zip(part.x, part.y, strict=True):
                heights[x] = heights.get(x, 0.0) + y
        return heights


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """Panels of stacks with common axes."""

    panels: tuple[BarPanel, ...]
    x_label: str
    y_label: str
    named: tuple[tuple[float, str], ...] = ()
    """Places on the x-axis that have a name instead of a number."""
    mark: str = ""
    """What a mark means."""

    @property
    def top(self) -> float:
        """Upper limit of the y-axis, with room for marks."""
        return 1.15 * max(max(panel.tops.values()) for panel in self.panels)


def bases(panel: BarPanel) -> list[list[float]]:
    """Where each part of the stacks begins."""
    heights: dict[float, float] = {}
    begins: list[list[float]] = []
    for part in panel.bars:
        begins.append([heights.get(x, 0.0) for x in part.x])
        for x, y in zip(part.x, part.y, strict=True):
            heights[x] = heights.get(x, 0.0) + y
    return begins


def draw_bars(chart: BarChart) -> Figure:
    """The panels below one another, one column wide."""
    figure, axes = panel_grid(len(chart.panels), columns=1, panel_height=0.95, entries=_legend(chart))
    for axis, panel in zip(axes, chart.panels, strict=True):
        _draw_panel(axis, panel, chart)
    label_outside(axes, columns=1, x_label=chart.x_label, y_label=chart.y_label)
    return settle(figure)


def _draw_panel(axis: Axes, panel: BarPanel, chart: BarChart) -> None:
    for part, begins in zip(panel.bars, bases(panel), strict=True):
        axis.bar(part.x, part.y, bottom=begins, width=0.8, color=part.colour, linewidth=0, zorder=2)
        below, above = np.asarray(part.y) - part.low, np.asarray(part.high) - part.y
        if np.any(above > 0):
            ends = np.asarray(begins) + part.y
            axis.errorbar(
                part.x, ends, yerr=[below, above], fmt="none", ecolor="#303030", elinewidth=0.5, zorder=3
            )
    marks = [(x, y) for x, y in panel.tops.items() if x in panel.marked]
    for x, y in marks:
        axis.plot(x, y + 0.06 * chart.top, marker="v", color=MARK_COLOUR, markersize=3, clip_on=False)
    head(axis, panel.title, columns=1)
    axis.set_ylim(0, chart.top)
    axis.grid(visible=False, axis="x")
    _name_ticks(axis, panel, chart)


def _name_ticks(axis: Axes, panel: BarPanel, chart: BarChart) -> None:
    """Names or numbers below the stacks, only as many as are legible."""
    names = dict(chart.named)
    blocks = sorted(x for x in panel.tops if x not in names)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if len(blocks) <= 16 * step)
    ticks = [*names, *(x for x in blocks if x % step == 0)]
    axis.set_xticks(ticks, [names.get(x, f"{x:g}") for x in ticks])


def _legend(chart: BarChart) -> list[Artist]:
    parts = {part.label: part.colour for panel in chart.panels for part in panel.bars}
    entries: list[Artist] = [Patch(color=colour, label=label) for label, colour in parts.items()]
    return [*entries, dot(chart.mark, MARK_COLOUR, "v")] if chart.mark else entries

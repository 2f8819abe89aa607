"""Charts of events along a run, one row per kind of event, and their drawing for a paper."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plots.charts.canvas import NEUTRAL, dot, panel_grid, scale_axis, settle, whole_numbers
from analysis.plots.charts.scales import Scale, view

_ROW = 0.13
"""Height of a series within a row, in inches."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """The events of one kind in the runs of a series."""

    label: str
    """The series."""
    colour: str
    row: str
    x: Sequence[float]
    """The count at which it happened, one per run in which it did."""
    runs: int
    """Number of runs of the series, including those in which it never happened."""
    unit: str = "edits"
    """The unit of `x`."""

    @property
    def mean(self) -> float:
        """Mean over the runs in which it happened; NaN if it never did."""
        return float(np.mean(self.x)) if len(self.x) else float("nan")

    @property
    def occurrences(self) -> str:
        """The number of runs in which it happened, as text."""
        return f"{len(self.x)} of {self.runs}" if len(self.x) else "never"


@dataclass(frozen=True, kw_only=True)
class EventChart:
    """Events in rows, with one line per series in each row."""

    rows: tuple[str, ...]
    """Names of the rows, from the top."""
    events: tuple[Event, ...]
    x_label: str
    end: float
    """Count at which the longest run ended."""
    scale: Scale = "linear"

    @property
    def x_view(self) -> tuple[float, float]:
        """Limits of the x-axis."""
        values = np.concatenate([*(event.x for event in self.events), [self.end]])
        return view(values, values, self.scale) if self.scale == "log" else (0.0, 1.03 * self.end)


def placed(chart: EventChart) -> Iterator[tuple[Event, float]]:
    """Every event with its height: rows one apart, 0 at the top, the series side by side around it."""
    series = list(dict.fromkeys(event.label for event in chart.events))
    for event in chart.events:
        offset = (series.index(event.label) - (len(series) - 1) / 2) / (len(series) + 1)
        yield event, chart.rows.index(event.row) + offset


def draw_events(chart: EventChart) -> Figure:
    """The rows, one column wide, with the number of runs in which each event happened at the right."""
    series = {event.label: event.colour for event in chart.events}
    entries = [*(dot(label, colour) for label, colour in series.items()), dot("mean", NEUTRAL, "|")]
    height = 0.5 + _ROW * (len(series) + 1) * len(chart.rows)
    figure, (axis,) = panel_grid(1, columns=1, panel_height=height, entries=entries)
    for event, y in placed(chart):
        _draw_event(axis, event, y)
    axis.set_yticks(range(len(chart.rows)), chart.rows, parse_math=False)
    axis.set_ylim(len(chart.rows) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    for edge in np.arange(0.5, len(chart.rows) - 1):
        axis.axhline(edge, color="#e4e4e4", linewidth=0.5)
    whole_numbers(axis)
    scale_axis(axis, "x", chart.scale, chart.x_view)
    axis.set_xlabel(chart.x_label, parse_math=False)
    return settle(figure)


def _draw_event(axis: Axes, event: Event, y: float) -> None:
    if len(event.x):
        axis.plot(
            event.x, [y] * len(event.x), "o", color=event.colour, markersize=2.6, alpha=0.6, linewidth=0
        )
        axis.plot([event.mean], [y], "|", color=event.colour, markersize=7, markeredgewidth=1.5)
    axis.annotate(
        event.occurrences,
        (1.01, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=5.5,
        color=event.colour,
    )

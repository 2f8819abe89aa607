"""Charts of points with intervals in both directions, joined in order, and their drawing for a paper."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plots.charts.canvas import dot, label_outside, panel_grid, scale_axis, settle
from analysis.plots.charts.scales import Scale, view

_WHISKERS = 20
"""Most intervals of a track."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Means with their intervals, along one axis."""

    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    @classmethod
    def exact(cls, values: Sequence[float]) -> "Spread":
        """Values without intervals."""
        return cls(mean=values, low=values, high=values)

    @property
    def errors(self) -> np.ndarray:
        """(2, point): how far the interval reaches below and above."""
        mean = np.asarray(self.mean)
        return np.maximum([mean - self.low, np.asarray(self.high) - mean], 0.0)


@dataclass(frozen=True, kw_only=True)
class Track:
    """The points of one series, in the order in which they were passed."""

    label: str
    colour: str
    x: Spread
    y: Spread
    notes: Sequence[str]
    """Text of each point on the page."""
    marks: Sequence[str] = ()
    """Text beside each point on paper; empty by default."""
    joined: bool = True
    """Whether a line leads from point to point."""

    @property
    def every(self) -> int:
        """Step between points with an interval: more intervals would hide one another."""
        return -(-len(self.notes) // _WHISKERS)


@dataclass(frozen=True, kw_only=True)
class TrackChart:
    """Tracks in one panel."""

    tracks: tuple[Track, ...]
    x_label: str
    y_label: str
    scale: Scale
    """Of the x-axis."""
    limits: tuple[float, float] | None = None
    """Of the y-axis; by default what the points need."""

    @property
    def x_view(self) -> tuple[float, float]:
        """Limits of the x-axis."""
        return _view([track.x for track in self.tracks], self.scale)

    @property
    def y_view(self) -> tuple[float, float]:
        """Limits of the y-axis."""
        return self.limits or _view([track.y for track in self.tracks], "linear")


def draw_tracks(chart: TrackChart) -> Figure:
    """The panel one column wide: a thin line through the points, intervals behind them."""
    entries = [dot(track.label, track.colour) for track in chart.tracks]
    figure, (axis,) = panel_grid(1, columns=1, panel_height=2.4, entries=entries)
    for track in chart.tracks:
        _draw_track(axis, track)
    scale_axis(axis, "x", chart.scale, chart.x_view)
    scale_axis(axis, "y", "linear", chart.y_view)
    label_outside([axis], columns=1, x_label=chart.x_label, y_label=chart.y_label)
    return settle(figure)


def _draw_track(axis: Axes, track: Track) -> None:
    x, y = track.x, track.y
    axis.errorbar(
        x.mean, y.mean, xerr=x.errors, yerr=y.errors, errorevery=track.every, fmt="none",
        ecolor=track.colour, alpha=0.3, elinewidth=0.6,
    )  # fmt: skip
    axis.plot(
        x.mean,
        y.mean,
        color=track.colour,
        linewidth=0.6 * track.joined,
        marker="o",
        markersize=3 if track.every == 1 else 2,
    )
    for place, (mark, right, up) in enumerate(zip(track.marks, x.mean, y.mean, strict=False)):
        # alternate between lower left and upper right: neighbours on a track lie close together
        offset = (-8, -8) if place % 2 else (3, 3)
        axis.annotate(mark, (right, up), offset, textcoords="offset points", fontsize="small")


def _view(spreads: Sequence[Spread], scale: Scale) -> tuple[float, float]:
    means = np.concatenate([spread.mean for spread in spreads])
    return view(means, np.concatenate([[*spread.low, *spread.high] for spread in spreads]), scale)

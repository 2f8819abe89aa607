"""One row of three panels as wide as a page: growth, what is left, and what tells it."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots.charts.canvas import COLUMN_WIDTH, NEUTRAL, dot, scale_axis, settle, whole_numbers
from analysis.plots.charts.lines import Line, LineChart, draw_on
from analysis.plots.charts.points import TrackChart
from analysis.spelling import spelled

_HEIGHT = 2.5
"""Inches."""
_APART = 0.075
"""Least distance of two labels, as a share of the axis."""


@dataclass(frozen=True, kw_only=True)
class HeroChart:
    """The charts of the three panels; of the first two, the lines of all their panels are drawn in one."""

    growth: LineChart
    ability: LineChart
    drift: TrackChart
    norm: TrackChart
    """The inset of the third panel: the same points against another number."""
    titles: tuple[str, str, str]


def draw_hero(chart: HeroChart) -> Figure:
    """The three panels; lines carry their names at their right ends."""
    figure = Figure(figsize=(2 * COLUMN_WIDTH, _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, 3))
    for axis, lines in zip(axes, (chart.growth, chart.ability), strict=False):
        _draw_lines(axis, lines)
    _draw_points(axes[2], chart.drift)
    axes[2].set_ylabel(chart.drift.y_label, parse_math=False)
    named = {line.label for line in chart.growth.lines}
    others = [track for track in chart.drift.tracks if track.label not in named]
    entries = [dot(track.label, track.colour) for track in others]
    figure.legend(entries, [spelled(track.label) for track in others], loc="outside lower center", ncols=5)
    inset = axes[2].inset_axes((0.64, 0.66, 0.34, 0.3))  # much drift and little damage hardly go together
    _draw_points(inset, chart.norm)
    inset.tick_params(labelsize=5, pad=1)
    inset.xaxis.set_major_locator(MaxNLocator(3))
    inset.yaxis.set_major_locator(MaxNLocator(3))
    inset.set_xlabel(chart.norm.x_label, fontsize=5, labelpad=1, parse_math=False)
    for axis, title in zip(axes, chart.titles, strict=True):
        axis.set_title(title, parse_math=False)
    return settle(figure)


def _draw_lines(axis: Axes, chart: LineChart) -> None:
    draw_on(axis, chart.lines)
    whole_numbers(axis)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    scale_axis(axis, "y", chart.scale, chart.view)
    axis.set_xlabel(chart.x_label, parse_math=False)
    axis.set_ylabel(chart.y_label, parse_math=False)
    _name_ends(axis, chart.lines)


def _name_ends(axis: Axes, lines: Sequence[Line]) -> None:
    """The name of every line beside its last point, or as near to it as others allow."""
    to_share = axis.transScale + axis.transLimits
    ends = [(float(to_share.transform((line.x[-1], line.y[-1]))[1]), line) for line in lines if len(line.y)]
    ends.sort(key=lambda end: end[0])
    places = spread_apart([share for share, _ in ends], _APART)
    for place, (_, line) in zip(places, ends, strict=True):
        axis.annotate(
            spelled(line.label), (1.02, place), xycoords="axes fraction", color=line.colour, fontsize=6,
            va="center", parse_math=False,
        )  # fmt: skip


def spread_apart(places: Sequence[float], least: float) -> list[float]:
    """Ascending places moved at least so far apart; those of a crowd stay around their mean."""
    crowds: list[list[float]] = []
    for place in places:
        crowds.append([place])
        while len(crowds) > 1 and _spread(crowds[-1], least)[0] < _spread(crowds[-2], least)[-1] + least:
            last = crowds.pop()
            crowds[-1] += last
    return [place for crowd in crowds for place in _spread(crowd, least)]


def _spread(crowd: Sequence[float], least: float) -> list[float]:
    middle, half = sum(crowd) / len(crowd), (len(crowd) - 1) / 2
    return [middle + (number - half) * least for number in range(len(crowd))]


def _draw_points(axis: Axes, chart: TrackChart) -> None:
    for track in chart.tracks:
        axis.plot(track.x.mean, track.y.mean, "o", color=track.colour, markersize=2.5)
    scale_axis(axis, "x", chart.scale, chart.x_view)
    scale_axis(axis, "y", "linear", chart.y_view)
    axis.set_xlabel(chart.x_label, parse_math=False)
    axis.axhline(0, color=NEUTRAL, linewidth=0.4)

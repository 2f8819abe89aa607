"""Shared by all drawings for a paper: colours, the grid of panels one column wide, the legend below it."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from analysis.plots.charts.scales import Scale, log_ticks, symlog_ticks
from analysis.spelling import spelled

_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5B3A")
"""Colours that differ for colour-blind eyes; yellow and black, which vanish on white or on a dark page, left
out and a brown added."""

PALETTE = (*_OKABE_ITO, "#003B5C", "#6E3100", "#00523C", "#6A3F57", "#775200", "#2D5E79", "#422F1E")
"""Colours of the series: Okabe and Ito's, then the same at half their light for sweeps with many series."""

NEUTRAL = "#808080"
"""Colour without a series: the unedited model, legend entries that explain a style."""

COLUMN_WIDTH = 3.5
"""Inches; a column of a two-column paper."""

STYLE = Path(__file__).with_name("paper.mplstyle")

_TITLE_LETTERS = 52
"""Letters that fit above all panels of a row."""

_MANY = 10_000
"""Counts from which ticks are written with k, M or G."""

_LEGEND_LETTERS = 60
_HANDLE_LETTERS = 8
"""Letters that fit the width of a legend, and that an entry's handle takes."""

_ENTRY_LETTERS = 58
"""Letters of a line of an entry that has a row to itself."""


def panel_grid(
    count: int, *, columns: int, panel_height: float, entries: Sequence[Artist] = (), share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` visible panels of that height in inches, with its legend below them."""
    rows = -(-count // columns)
    per_row = _entries_per_row(entries)
    labels = [_wrapped(spelled(str(entry.get_label())), _ENTRY_LETTERS) for entry in entries]
    lines = sum(label.count("\n") + 1 for label in labels)
    legend_height = 0.16 * -(-lines // per_row)
    size = (COLUMN_WIDTH, rows * panel_height + 0.2 + legend_height)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    if entries:
        legend = figure.legend(entries, labels, loc="outside lower center", ncols=per_row)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a dollar sign in a setting is a dollar sign
    return figure, axes[:count]


def settle(figure: Figure) -> Figure:
    """Lay the figure out once, not again for every format."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # with any engine, even none, savefig would draw everything twice
    return figure


def label_outside(axes: Sequence[Axes], *, columns: int, x_label: str, y_label: str) -> None:
    """Labels and ticks at the outer edge only; a panel with nothing below it counts as the edge."""
    several = len(axes) > columns
    for place, axis in enumerate(axes):
        left, bottom = place % columns == 0, place + columns >= len(axes)
        axis.tick_params(labelleft=left, labelbottom=bottom)
        axis.set_ylabel(y_label if left and not several else "", parse_math=False)
        axis.set_xlabel(x_label if bottom else "", parse_math=False)
    if several:
        axes[0].figure.supylabel(y_label, fontsize="medium", parse_math=False)


def head(axis: Axes, title: str, *, columns: int) -> None:
    """The panel's title, wrapped to the width of the panel."""
    axis.set_title(_wrapped(spelled(title), _TITLE_LETTERS // columns), parse_math=False)


def scale_axis(axis: Axes, name: str, scale: Scale, limits: tuple[float, float]) -> None:
    """Set the x- or y-axis to a scale and its limits, with few, plain ticks."""
    set_scale, set_limits = (
        (axis.set_xscale, axis.set_xlim) if name == "x" else (axis.set_yscale, axis.set_ylim)
    )
    own = axis.xaxis if name == "x" else axis.yaxis
    if scale == "symlog":
        set_scale("symlog", linthresh=1)
        ticks = symlog_ticks(limits)
        plain = max(map(abs, ticks)) < 1e5
        own.set_ticks(ticks, [f"{tick:g}" for tick in ticks] if plain else None)
        own.set_minor_locator(NullLocator())
    elif scale == "log":
        set_scale("log")
        if ticks := log_ticks(limits):
            own.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            own.set_minor_locator(NullLocator())
    set_limits(*limits)


def whole_numbers(axis: Axes) -> None:
    """Ticks of the x-axis at whole numbers: there is no half edit and no half block."""
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    # tokens are many, and their digits would run into one another
    if axis.get_xlim()[1] >= _MANY:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def dot(label: str, colour: str = NEUTRAL, marker: str = "o") -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], color=colour, linestyle="none", marker=marker, label=label)


def _wrapped(text: str, letters: int) -> str:
    """The text in lines of at most this many letters."""
    return textwrap.fill(text, letters, break_on_hyphens=False)


def _entries_per_row(entries: Sequence[Artist]) -> int:
    longest = max((len(str(entry.get_label())) for entry in entries), default=0)
    return max(1, min(len(entries), _LEGEND_LETTERS // (longest + _HANDLE_LETTERS)))

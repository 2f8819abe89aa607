"""What a figure shows, apart from who draws it: lines in panels, and how matplotlib draws them for a paper.

`analysis/figures.py` makes charts from the tidy table; this module draws them at the width of a journal's
column, `analysis/interactive.py` draws the same charts for the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis.scales import Scale, symlog_ticks, view

Style = Literal["solid", "dashed"]
Format = Literal["png", "svg", "pdf"]

_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5B3A")
"""Colours that differ for colour-blind eyes; yellow and black, which vanish on white or on a dark page, left
out and a brown added."""

PALETTE = (*_OKABE_ITO, "#003B5C", "#6E3100", "#00523C", "#6A3F57", "#775200", "#2D5E79", "#422F1E")
"""Colours of the series: Okabe and Ito's, then the same at half their light for sweeps with many series."""

NEUTRAL = "#808080"
"""What belongs to no series: the unedited model, entries of the legend that explain a style."""

COLUMN_WIDTH = 3.5
"""Inches; a column of a two-column paper."""

_STYLE = Path(__file__).with_name("paper.mplstyle")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve with its band."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    """Lower edge of the band; equal to `y` where there is none."""
    high: Sequence[float]
    style: Style = "solid"
    marked: frozenset[float] = frozenset()
    """Positions on the x-axis that carry a dot."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines that share axes."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Panels with common axes, and what the legend says."""

    panels: tuple[Panel, ...]
    x_label: str
    y_label: str
    scale: Scale = "linear"
    limits: tuple[float, float] | None = None
    """Of the y-axis; by default what the lines need."""
    styles: Mapping[Style, str] = field(default_factory=dict)
    """What solid and dashed mean."""
    mark: str = ""
    """What a dot means."""

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines of all panels."""
        return tuple(line for panel in self.panels for line in panel.lines)

    @property
    def view(self) -> tuple[float, float]:
        """Limits of the y-axis."""
        if self.limits:
            return self.limits
        edges = np.concatenate([[*line.low, *line.high] for line in self.lines])
        return view(values_of(self.lines), edges, self.scale)


def values_of(lines: Sequence[Line]) -> np.ndarray:
    """The values of all lines in one array."""
    return np.concatenate([np.asarray(line.y, dtype=float) for line in lines]) if lines else np.empty(0)


def save(chart: Chart, stem: Path, formats: Sequence[Format]) -> list[Path]:
    """Draw the chart into `<stem>.<format>` for every format; the folder is made."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Without a date the same data give the same bytes.
    undated: dict[Format, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in formats]
    with mpl.rc_context(fname=_STYLE):
        figure = draw(chart)
        for path, ending in zip(paths, formats, strict=True):
            figure.savefig(path, metadata=undated.get(ending))
    return paths


def draw(chart: Chart) -> Figure:
    """The chart as a matplotlib figure one column wide, legend below the panels."""
    columns = min(2, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    entries = _legend(chart)
    legend_columns = _legend_columns(entries)
    legend_height = 0.16 * -(-len(entries) // legend_columns)
    panel_height = 2.2 if columns == 1 else 1.4
    figure = Figure(figsize=(COLUMN_WIDTH, rows * panel_height + 0.2 + legend_height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axis, panel in zip(axes, chart.panels, strict=False):
        _draw_panel(axis, panel, chart)
    for place, axis in enumerate(axes):
        _label(axis, chart, left=place % columns == 0, bottom=place + columns >= len(chart.panels))
        axis.set_visible(place < len(chart.panels))
    legend = figure.legend(handles=entries, loc="outside lower center", ncols=legend_columns)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar sign in a setting is a dollar sign
    # Lay out once, not again for every format.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _draw_panel(axis: Axes, panel: Panel, chart: Chart) -> None:
    for line in panel.lines:
        dots = [index for index, x in enumerate(line.x) if x in line.marked]
        axis.plot(
            line.x, line.y, linestyle=line.style, color=line.colour, marker="o",
            markevery=dots if len(line.x) > 1 else None,
        )  # fmt: skip
        if np.any(np.asarray(line.high) > np.asarray(line.low)):
            axis.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.18, linewidth=0)
    axis.set_title(panel.title, parse_math=False)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    _scale(axis, chart)
    axis.set_ylim(*chart.view)


def _label(axis: Axes, chart: Chart, *, left: bool, bottom: bool) -> None:
    """Labels at the outer edge only; a panel with nothing below it counts as the edge."""
    axis.tick_params(labelleft=left, labelbottom=bottom)
    axis.set_ylabel(chart.y_label if left else "")
    axis.set_xlabel(chart.x_label if bottom else "")


def _scale(axis: Axes, chart: Chart) -> None:
    if chart.scale == "symlog":
        axis.set_yscale("symlog", linthresh=1)
        axis.set_yticks(symlog_ticks(chart.view))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.set_yscale(chart.scale)


def _legend(chart: Chart) -> list[Line2D]:
    """An entry per series (colour), then per meaning of style and dot."""
    series = {line.label: line.colour for line in chart.lines}
    entries = [Line2D([], [], color=colour, label=label) for label, colour in series.items()]
    for style, meaning in chart.styles.items():
        entries.append(Line2D([], [], color=NEUTRAL, linestyle=style, label=meaning))
    if chart.mark:
        entries.append(Line2D([], [], color=NEUTRAL, linestyle="none", marker="o", label=chart.mark))
    return entries


def _legend_columns(entries: Sequence[Line2D]) -> int:
    """As many columns as fit the width, some 60 letters with 6 for the handle."""
    longest = max(len(str(entry.get_label())) for entry in entries)
    return max(1, min(len(entries), 60 // (longest + 6)))

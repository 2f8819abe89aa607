"""The kinds of charts, and the files of a chart for a paper.

`analysis/plots/figures` builds charts from the tidy table. Every kind of chart is a dataclass in its own
module, beside the function that draws it with matplotlib at the width of a journal's column;
`analysis/plots/interactive` draws the same charts with Plotly for the page.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, assert_never

import matplotlib as mpl
from matplotlib.figure import Figure

from analysis.plots.charts.bars import BarChart, draw_bars
from analysis.plots.charts.canvas import STYLE
from analysis.plots.charts.events import EventChart, draw_events
from analysis.plots.charts.heatmap import HeatMap, draw_heat_map
from analysis.plots.charts.lines import LineChart, draw_lines
from analysis.plots.charts.points import TrackChart, draw_tracks

Chart = LineChart | HeatMap | BarChart | TrackChart | EventChart
Format = Literal["png", "svg", "pdf"]


def draw(chart: Chart) -> Figure:
    """The chart as a matplotlib figure one column wide."""
    match chart:
        case LineChart():
            return draw_lines(chart)
        case HeatMap():
            return draw_heat_map(chart)
        case BarChart():
            return draw_bars(chart)
        case TrackChart():
            return draw_tracks(chart)
        case EventChart():
            return draw_events(chart)
        case _:
            assert_never(chart)


def save(chart: Chart, stem: Path, formats: Sequence[Format], *, dots: int = 300) -> list[Path]:
    """Draw the chart into `<stem>.<format>` for every format; creates the folder.

    `dots` is the resolution of the PNG per inch.
    """
    return save_figure(lambda: draw(chart), stem, formats, dots=dots)


def save_figure(
    drawing: Callable[[], Figure], stem: Path, formats: Sequence[Format], *, dots: int = 300
) -> list[Path]:
    """The same of any drawing."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Without a date the same data give the same bytes.
    undated: dict[Format, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in formats]
    with mpl.rc_context(fname=STYLE):
        figure = drawing()
        for path, ending in zip(paths, formats, strict=True):
            figure.savefig(path, metadata=undated.get(ending), dpi=dots)
    return paths

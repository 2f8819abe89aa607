"""Draws a chart with Plotly, for a page that is read without a network."""

from typing import assert_never

import plotly.graph_objects as go

from analysis.plots.charts.bars import BarChart
from analysis.plots.charts.events import EventChart
from analysis.plots.charts.heatmap import HeatMap
from analysis.plots.charts.lines import LineChart
from analysis.plots.charts.points import TrackChart
from analysis.plots.charts.save import Chart
from analysis.plots.interactive.charts import hover_bars, hover_events, hover_heat_map, hover_tracks
from analysis.plots.interactive.lines import hover_lines


def interactive(chart: Chart) -> go.Figure:
    """The chart as a Plotly figure; values under the pointer, series switched on and off in the legend."""
    match chart:
        case LineChart():
            return hover_lines(chart)
        case HeatMap():
            return hover_heat_map(chart)
        case BarChart():
            return hover_bars(chart)
        case TrackChart():
            return hover_tracks(chart)
        case EventChart():
            return hover_events(chart)
        case _:
            assert_never(chart)

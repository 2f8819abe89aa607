"""Curves in panels as Plotly figures for the page."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.plots.charts.canvas import NEUTRAL
from analysis.plots.charts.lines import FAINT, Line, LineChart, Style
from analysis.plots.interactive.page_layout import (
    add_key,
    drawn_at,
    faint,
    lay_out,
    named,
    plain,
    scale_axis,
    title_axes,
)

_DASHES: Mapping[Style, str] = MappingProxyType({"solid": "solid", "dashed": "dash", "dotted": "dot"})
_ROW_HEIGHT = 270  # pixels
_POINTS = 400
"""Most points per line on the page: more would not be visible and would make the file large."""


def hover_lines(chart: LineChart) -> go.Figure:
    """The chart as Plotly draws it; a line of more than 400 points is thinned evenly, its ends kept."""
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    titles = [named(panel.title) for panel in chart.panels] if any(p.title for p in chart.panels) else None
    figure = make_subplots(
        rows, columns, shared_yaxes=True, subplot_titles=titles,
        horizontal_spacing=0.04, vertical_spacing=0.2 / rows,
    )  # fmt: skip
    solid = {line.label for line in chart.lines if line.style == "solid"}
    shown: set[str] = set()
    for index, panel in enumerate(chart.panels):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for line in panel.lines:
            leads = line.strength == 1 and (line.style == "solid" or line.label not in solid)
            _add(figure, line, chart, place, legend=leads and line.label not in shown)
            shown |= {line.label} if leads else set()
    _explain(figure, chart)
    _axes(figure, chart, columns=columns)
    hover = "closest" if chart.x_scale == "symlog" else "x unified"
    lay_out(figure, rows * _ROW_HEIGHT, titled=titles is not None, hover=hover)
    return figure


def thinned(line: Line) -> np.ndarray:
    """Indices of the points to keep: evenly spaced, with both ends and all marked points."""
    every = _evenly(len(line.x))
    dots = [index for index, x in enumerate(line.x) if x in line.marked]
    return np.union1d(every, np.array(dots[:_POINTS], dtype=int))


def _evenly(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


def _add(figure: go.Figure, line: Line, chart: LineChart, place: dict[str, int], *, legend: bool) -> None:
    keep = thinned(line)
    arrays = {name: np.asarray(getattr(line, name), dtype=float)[keep] for name in ("x", "y", "low", "high")}
    label, x = named(line.label), drawn_at(arrays["x"], chart.x_scale)
    _add_seeds(figure, line, chart, place)
    band = bool(np.any(arrays["high"] > arrays["low"]))
    if band:
        edges = drawn_at(np.concatenate([arrays["high"], arrays["low"][::-1]]), chart.scale)
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]), y=edges, mode="lines", line_width=0, hoverinfo="skip",
            fill="toself", fillcolor=faint(line.colour, 0.18 * line.strength), legendgroup=label,
            showlegend=False, **place,
        )  # fmt: skip
    dots = [value in line.marked or len(line.x) == 1 for value in arrays["x"]]
    # Plotly's own heading would give the place on a symlog axis, not the value
    where = f"{plain(chart.x_label)} %{{customdata[3]:.6g}}: " if chart.x_scale == "symlog" else ""
    interval = " [%{customdata[1]:.4g}, %{customdata[2]:.4g}]" if band else ""
    figure.add_scatter(
        x=x, y=drawn_at(arrays["y"], chart.scale), name=label, legendgroup=label,
        showlegend=legend, opacity=line.strength,
        customdata=np.column_stack([arrays[name] for name in ("y", "low", "high", "x")]),
        hovertemplate=f"{where}%{{customdata[0]:.4g}}{interval}<extra>{label}{_meaning(line, chart)}</extra>",
        mode="lines+markers" if any(dots) else "lines",
        line={"color": line.colour, "width": 2, "dash": _DASHES[line.style]},
        marker={"line": {"width": 0}, "size": [9 if dot else 0 for dot in dots]}, **place,
    )  # fmt: skip


def _add_seeds(figure: go.Figure, line: Line, chart: LineChart, place: dict[str, int]) -> None:
    """The thin lines of the seeds, which come and go with their mean."""
    for places, heights in line.seeds:
        every = _evenly(len(places))
        figure.add_scatter(
            x=drawn_at(np.asarray(places, dtype=float)[every], chart.x_scale),
            y=drawn_at(np.asarray(heights, dtype=float)[every], chart.scale),
            mode="lines", line={"color": line.colour, "width": 1, "dash": _DASHES[line.style]},
            opacity=FAINT * line.strength, hoverinfo="skip", legendgroup=named(line.label), showlegend=False,
            **place,
        )  # fmt: skip


def _meaning(line: Line, chart: LineChart) -> str:
    """The meaning of the style and opacity of a line, for the hover box."""
    meanings = [
        "" if line.style == "solid" else chart.styles.get(line.style, ""),
        chart.strengths.get(line.strength, ""),
    ]
    return "".join(f", {plain(text)}" for text in meanings if text)


def _explain(figure: go.Figure, chart: LineChart) -> None:
    """Legend entries that explain styles, opacities and dots."""
    for style, meaning in chart.styles.items():
        line = {"color": NEUTRAL, "width": 2, "dash": _DASHES[style]}
        add_key(figure, meaning, mode="lines", line=line)
    for strength, meaning in chart.strengths.items():
        add_key(figure, meaning, mode="lines", line={"color": NEUTRAL, "width": 2}, opacity=strength)
    if chart.mark:
        add_key(figure, chart.mark, mode="markers", marker={"color": NEUTRAL, "size": 9})


def _axes(figure: go.Figure, chart: LineChart, *, columns: int) -> None:
    # no half edits on a short axis; Plotly itself uses whole numbers on a long one
    short = chart.x_scale == "linear" and max(max(line.x) for line in chart.lines) < 10
    scale_axis(figure, "x", chart.x_scale, chart.x_view)
    if short:
        figure.update_xaxes(dtick=1)
    scale_axis(figure, "y", chart.scale, chart.view)
    title_axes(figure, len(chart.panels), columns=columns, x_label=chart.x_label, y_label=chart.y_label)

"""Draws a chart with Plotly, for a page that is read without a network."""

import html
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.charts import NEUTRAL, Chart, Line, Style
from analysis.scales import forward, symlog_ticks

_DASHES: Mapping[Style, str] = MappingProxyType({"solid": "solid", "dashed": "dash"})
_ROW_HEIGHT = 270  # pixels
_LEGEND_LETTERS = 120  # that fit a line of the legend on a wide page


def interactive(chart: Chart) -> go.Figure:
    """The chart as a Plotly figure; values under the pointer, series switched on and off in the legend."""
    columns = min(2, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    titles = [_text(panel.title) for panel in chart.panels] if any(p.title for p in chart.panels) else None
    figure = make_subplots(
        rows, columns, shared_yaxes=True, subplot_titles=titles,
        horizontal_spacing=0.04, vertical_spacing=0.2 / rows,
    )  # fmt: skip
    shown: set[str] = set()
    for index, panel in enumerate(chart.panels):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for line in panel.lines:
            _add(figure, line, chart, place, legend=line.style == "solid" and line.label not in shown)
            shown.add(line.label)
    _explain(figure, chart)
    _axes(figure, chart, columns=columns)
    _layout(figure, rows, titled=titles is not None, legend_letters=sum(len(label) + 8 for label in shown))
    return figure


def _text(text: str) -> str:
    """Escaped: Plotly reads a part of HTML in its texts, and formulas between dollar signs."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def _add(figure: go.Figure, line: Line, chart: Chart, place: dict[str, int], *, legend: bool) -> None:
    # Plotly takes ordinary logarithms itself.
    scale = "symlog" if chart.scale == "symlog" else "linear"
    label = _text(line.label)
    band = bool(np.any(np.asarray(line.high) > np.asarray(line.low)))
    if band:
        edges = np.concatenate([forward(line.high, scale), forward(line.low, scale)[::-1]])
        figure.add_scatter(
            x=[*line.x, *reversed(line.x)], y=edges, mode="lines", line_width=0, hoverinfo="skip",
            fill="toself", fillcolor=_faint(line.colour), legendgroup=label, showlegend=False, **place,
        )  # fmt: skip
    dots = [x in line.marked or len(line.x) == 1 for x in line.x]
    suffix = "" if line.style == "solid" else f", {_text(chart.styles.get(line.style, line.style))}"
    interval = " [%{customdata[1]:.4g}, %{customdata[2]:.4g}]" if band else ""
    figure.add_scatter(
        x=line.x, y=forward(line.y, scale), name=label + suffix, legendgroup=label, showlegend=legend,
        customdata=np.column_stack([line.y, line.low, line.high]),
        hovertemplate="%{customdata[0]:.4g}" + interval,
        mode="lines+markers" if any(dots) else "lines",
        line={"color": line.colour, "width": 2, "dash": _DASHES[line.style]},
        marker={"line": {"width": 0}, "size": [9 if dot else 0 for dot in dots]}, **place,
    )  # fmt: skip


def _explain(figure: go.Figure, chart: Chart) -> None:
    """Entries of the legend that say what a style and a dot mean."""
    for style, meaning in chart.styles.items():
        dash = {"color": NEUTRAL, "width": 2, "dash": _DASHES[style]}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=dash, name=_text(meaning), hoverinfo="skip")
    if chart.mark:
        dot = {"color": NEUTRAL, "size": 9}
        figure.add_scatter(
            x=[None], y=[None], mode="markers", marker=dot, name=_text(chart.mark), hoverinfo="skip"
        )


def _axes(figure: go.Figure, chart: Chart, *, columns: int) -> None:
    # No half edits on a short axis; a long one chooses whole numbers by itself.
    short = max(max(line.x) for line in chart.lines) < 10
    figure.update_xaxes(zeroline=False, gridcolor="rgba(128,128,128,0.2)", dtick=1 if short else None)
    for place in range(max(0, len(chart.panels) - columns), len(chart.panels)):
        label = {"text": _text(chart.x_label), "standoff": 6}
        figure.update_xaxes(title=label, row=place // columns + 1, col=place % columns + 1)
    view = forward(chart.view, chart.scale)
    figure.update_yaxes(
        zeroline=False, gridcolor="rgba(128,128,128,0.2)", exponentformat="power", range=view.tolist()
    )
    figure.update_yaxes(title_text=_text(chart.y_label), col=1)
    if chart.scale == "log":
        figure.update_yaxes(type="log", dtick=1 if view[1] - view[0] > 1.5 else None)
    if chart.scale == "symlog":
        ticks = symlog_ticks(chart.view)
        figure.update_yaxes(tickvals=forward(ticks, "symlog"), ticktext=[f"{tick:g}" for tick in ticks])


def _layout(figure: go.Figure, rows: int, *, titled: bool, legend_letters: int) -> None:
    """Transparent and in mid grey, which reads on a light and on a dark page; the page refines it."""
    figure.update_layout(
        template="none",
        height=rows * _ROW_HEIGHT + 90 + 24 * (legend_letters // _LEGEND_LETTERS),
        margin={"l": 70, "r": 16, "t": 30 if titled else 10, "b": 70},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": NEUTRAL},
        legend={"orientation": "h", "yanchor": "top", "y": -48 / (rows * _ROW_HEIGHT), "x": 0},
        hovermode="x unified",
    )


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"

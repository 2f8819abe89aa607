"""Heat maps, bars, points and events as Plotly figures for the page."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.plots.charts.bars import MARK_COLOUR, BarChart, BarPanel
from analysis.plots.charts.canvas import NEUTRAL
from analysis.plots.charts.events import EventChart, placed
from analysis.plots.charts.heatmap import COLOURS, Grid, HeatMap
from analysis.plots.charts.points import Track, TrackChart
from analysis.plots.interactive.page_layout import (
    GRID,
    add_key,
    drawn_at,
    faint,
    lay_out,
    named,
    plain,
    scale_axis,
    title_axes,
)
from analysis.spelling import spelled


def hover_heat_map(chart: HeatMap) -> go.Figure:
    """The matrices side by side; hovering shows the pair of blocks, or row and block, and the value."""
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    titles = [named(grid.title) for grid in chart.panels]
    figure = make_subplots(
        rows, columns, subplot_titles=titles, horizontal_spacing=0.16 / columns, vertical_spacing=0.2 / rows,
        shared_yaxes=bool(chart.rows),
    )  # fmt: skip
    for index, grid in enumerate(chart.panels):
        figure.add_trace(_cells(grid, chart.rows), row=index // columns + 1, col=index % columns + 1)
    low, high = chart.limits
    bar = {"title": {"text": plain(chart.value_label), "side": "right"}, "outlinewidth": 0, "thickness": 14}
    figure.update_layout(coloraxis={"colorscale": COLOURS, "cmin": low, "cmax": high, "colorbar": bar})
    # whole blocks, about eight labels
    step = max(1, max(grid.values.shape[1] for grid in chart.panels) // 8)
    whole = {"tick0": 0, "dtick": step, "showgrid": False, "zeroline": False}
    figure.update_xaxes(constrain="domain", **whole)
    figure.update_yaxes(autorange="reversed", constrain="domain", **whole)
    if chart.rows:
        names = [named(row) for row in chart.rows]
        figure.update_yaxes(tickmode="array", tickvals=list(range(len(names))), ticktext=names)
    else:
        for place in range(len(chart.panels)):
            anchor = f"x{place + 1 if place else ''}"
            figure.update_yaxes(scaleanchor=anchor, row=place // columns + 1, col=place % columns + 1)
    title_axes(figure, len(chart.panels), columns=columns, x_label=chart.x_label, y_label=chart.y_label)
    lay_out(figure, (240 if chart.rows else 340) * rows, titled=True, hover="closest")
    if chart.rows:
        figure.update_layout(margin={"l": 150})
    return figure


def _cells(grid: Grid, rows: Sequence[str]) -> go.Heatmap:
    measured = np.isfinite(grid.values)
    where = "%{customdata}, block %{x}" if rows else "blocks %{x} and %{y}"
    return go.Heatmap(
        z=[[float(f"{v:.4f}") if ok else None for v, ok in zip(row, known, strict=True)]
           for row, known in zip(grid.values, measured, strict=True)],
        customdata=[[plain(name)] * grid.values.shape[1] for name in rows] or None,
        coloraxis="coloraxis", hoverongaps=False,
        hovertemplate=where + ": %{z:.3f}<extra>" + named(grid.title) + "</extra>",
    )  # fmt: skip


def hover_bars(chart: BarChart) -> go.Figure:
    """The panels below one another; hovering shows a part's share and its interval."""
    rows = len(chart.panels)
    figure = make_subplots(
        rows, 1, shared_xaxes=True, subplot_titles=[named(panel.title) for panel in chart.panels],
        vertical_spacing=0.3 / rows,
    )  # fmt: skip
    for row, panel in enumerate(chart.panels, start=1):
        _stack(figure, panel, chart, row)
    if chart.mark:
        add_key(figure, chart.mark, mode="markers", marker=_mark())
    figure.update_layout(barmode="stack", bargap=0.2)
    scale_axis(figure, "y", "linear", (0.0, chart.top))
    names = dict(chart.named)
    blocks = sorted({x for panel in chart.panels for x in panel.tops} - set(names))
    ticks = [*names, *(x for x in blocks if len(blocks) <= 24 or x % 5 == 0)]
    figure.update_xaxes(tickvals=ticks, ticktext=[names.get(x, f"{x:g}") for x in ticks], zeroline=False)
    title_axes(figure, rows, columns=1, x_label=chart.x_label, y_label="")
    figure.update_yaxes(title_text=plain(chart.y_label), row=(rows + 1) // 2, col=1)
    lay_out(figure, 190 * rows, titled=True, hover="closest")
    return figure


def _stack(figure: go.Figure, panel: BarPanel, chart: BarChart, row: int) -> None:
    for part in panel.bars:
        label = named(part.label)
        interval = np.any(np.asarray(part.high) > np.asarray(part.low))
        value = "%{y:.4f}" + (" [%{customdata[0]:.4f}, %{customdata[1]:.4f}]" if interval else "")
        figure.add_bar(
            x=part.x, y=part.y, name=label, legendgroup=label, showlegend=row == 1, marker_color=part.colour,
            marker_line_width=0, customdata=np.column_stack([part.low, part.high]),
            hovertemplate=f"block %{{x}}, {label}: {value}<extra></extra>", row=row, col=1,
        )  # fmt: skip
    marks = [(x, y + 0.06 * chart.top) for x, y in panel.tops.items() if x in panel.marked]
    if marks:
        x, y = zip(*marks, strict=True)
        figure.add_scatter(
            x=x, y=y, mode="markers", marker=_mark(), showlegend=False, hoverinfo="skip", row=row, col=1
        )


def _mark() -> dict[str, object]:
    return {"symbol": "triangle-down", "size": 9, "color": MARK_COLOUR}


def hover_tracks(chart: TrackChart) -> go.Figure:
    """One panel; hovering shows the count of a point."""
    figure = make_subplots(1, 1)
    for track in chart.tracks:
        _track(figure, track, chart)
    scale_axis(figure, "x", chart.scale, chart.x_view)
    scale_axis(figure, "y", "linear", chart.y_view)
    title_axes(figure, 1, columns=1, x_label=chart.x_label, y_label=chart.y_label)
    lay_out(figure, 380, titled=False, hover="closest")
    return figure


def _track(figure: go.Figure, track: Track, chart: TrackChart) -> None:
    has_interval = np.arange(len(track.notes)) % track.every == 0
    axes = f"{plain(chart.x_label)}: %{{x:.4g}}<br>{plain(chart.y_label)}: %{{y:.4g}}"
    errors = {
        f"error_{name}": {
            "type": "data", "symmetric": False,
            "array": above * has_interval, "arrayminus": below * has_interval,
            "thickness": 0.8, "width": 0, "color": faint(track.colour, 0.5),
        }
        for name, (below, above) in (("x", track.x.errors), ("y", track.y.errors))
    }  # fmt: skip
    figure.add_scatter(
        x=track.x.mean, y=track.y.mean, mode="lines+markers" if track.joined else "markers",
        name=named(track.label), text=track.notes,
        line={"color": track.colour, "width": 1}, marker={"size": 7, "line": {"width": 0}}, showlegend=True,
        hovertemplate=f"%{{text}}<br>{axes}",
        **errors,
    )  # fmt: skip


def hover_events(chart: EventChart) -> go.Figure:
    """One panel; hovering shows the count of a dot or the mean over the runs."""
    figure = make_subplots(1, 1)
    for event, y in placed(chart):
        label, mean = named(event.label), [] if np.isnan(event.mean) else [event.mean]
        x = [*event.x, *mean]
        figure.add_scatter(
            x=drawn_at(x, chart.scale), y=[y] * len(x), mode="markers", name=label, legendgroup=label,
            showlegend=False, customdata=x,
            text=[*("" for _ in event.x), *("mean " for _ in mean)],
            hovertemplate=f"{named(event.row)}: %{{text}}%{{customdata:.4g}} {event.unit}",
            marker={
                "color": event.colour, "line": {"width": 2},
                "size": [*(8 for _ in event.x), *(18 for _ in mean)],
                "symbol": [*("circle" for _ in event.x), *("line-ns-open" for _ in mean)],
            },
        )  # fmt: skip
        figure.add_annotation(
            text=event.occurrences,
            x=1,
            xref="paper",
            xanchor="left",
            y=y,
            showarrow=False,
            font_color=event.colour,
        )
    for name, colour in {event.label: event.colour for event in chart.events}.items():
        marker = {"color": colour, "size": 8}
        add_key(figure, spelled(name), mode="markers", marker=marker, legendgroup=named(name))
    for edge in range(1, len(chart.rows)):
        figure.add_hline(y=edge - 0.5, line={"color": GRID, "width": 1})
    add_key(figure, "mean", mode="markers", marker={"symbol": "line-ns-open", "size": 14, "color": NEUTRAL})
    scale_axis(figure, "x", chart.scale, chart.x_view)
    figure.update_yaxes(
        tickvals=list(range(len(chart.rows))), ticktext=[named(row) for row in chart.rows], showgrid=False,
        range=[len(chart.rows) - 0.5, -0.5], zeroline=False,
    )  # fmt: skip
    figure.update_xaxes(title_text=plain(chart.x_label))
    lay_out(figure, 60 + 90 * len(chart.rows), titled=False, hover="closest")
    figure.update_layout(margin={"l": 120, "r": 70})
    return figure

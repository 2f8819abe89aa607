"""Shared by all figures of the page: escaping, axes, legend and a layout for light and dark pages."""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from analysis.plots.charts.canvas import NEUTRAL
from analysis.plots.charts.scales import Scale, forward, log_ticks, symlog_ticks
from analysis.spelling import spelled

GRID = "rgba(128,128,128,0.2)"
_LEGEND_LETTERS = 120  # that fit a line of the legend on a wide page


def plain(text: str) -> str:
    """Escaped: Plotly reads a part of HTML in its texts, formulas between dollars, and `%{…}` as a value."""
    return html.escape(text, quote=False).replace("$", "&#36;").replace("%{", "%&#123;")


def named(label: str) -> str:
    """A label with the names of methods as their authors write them, escaped."""
    return plain(spelled(label))


def faint(colour: str, opacity: float = 0.18) -> str:
    """The colour, nearly transparent."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:.3g})"


def drawn_at(values: Sequence[float] | np.ndarray, scale: Scale) -> np.ndarray:
    """The values as Plotly needs them: it takes ordinary logarithms itself and knows no symlog."""
    return forward(values, "symlog") if scale == "symlog" else np.asarray(values, dtype=float)


def add_key(figure: go.Figure, meaning: str, **look: object) -> None:
    """An entry of the legend that stands for no data, such as what a dash means."""
    figure.add_scatter(x=[None], y=[None], name=plain(meaning), hoverinfo="skip", showlegend=True, **look)


def scale_axis(figure: go.Figure, name: str, scale: Scale, limits: tuple[float, float]) -> None:
    """Set all x- or y-axes to a scale and its limits; symlog values are drawn where `forward` puts them."""
    low, high = forward(limits, scale).tolist()
    update = figure.update_xaxes if name == "x" else figure.update_yaxes
    update(zeroline=False, gridcolor=GRID, range=[low, high], exponentformat="power")
    if scale == "log":
        ticks = log_ticks(limits)
        update(type="log", dtick=None if ticks else 1, tickvals=ticks or None)
    if scale == "symlog":
        ticks = symlog_ticks(limits)
        update(tickvals=forward(ticks, "symlog"), ticktext=[f"{tick:g}" for tick in ticks])


def title_axes(figure: go.Figure, count: int, *, columns: int, x_label: str, y_label: str) -> None:
    """Titles at the outer edge only; a panel with nothing below it counts as the edge."""
    for place in range(max(0, count - columns), count):
        title = {"text": plain(x_label), "standoff": 6}
        figure.update_xaxes(title=title, row=place // columns + 1, col=place % columns + 1)
    figure.update_yaxes(title_text=plain(y_label), col=1)


def lay_out(figure: go.Figure, height: int, *, titled: bool, hover: str, below: int = 48) -> None:
    """Transparent and in mid grey, which reads on a light and on a dark page; the page refines it.

    `height` is that of all panels, `below` how far under them the legend begins, both in pixels.
    """
    names: list[str] = []
    figure.for_each_trace(lambda trace: names.append(trace.name or ""), lambda trace: trace.showlegend)
    lines = sum(len(name) + 8 for name in names) // _LEGEND_LETTERS
    figure.update_layout(
        template="none",
        height=height + 90 + 24 * lines,
        margin={"l": 70, "r": 16, "t": 30 if titled else 10, "b": 70 + 24 * lines},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": NEUTRAL},
        legend={"orientation": "h", "yanchor": "top", "y": -below / height, "x": 0},
        hovermode=hover,
    )

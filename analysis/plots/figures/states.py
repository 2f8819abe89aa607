"""Figures of the hidden states: their norms, the contributions to them, accuracies of probes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.plots.charts.bars import BarChart, BarPanel, Bars
from analysis.plots.charts.heatmap import Grid, HeatMap
from analysis.plots.charts.lines import Line, LineChart, Style, values_of
from analysis.plots.charts.scales import scale_for
from analysis.plots.figures.curves import (
    curves,
    edited_layers,
    level,
    marked,
    one_by_one,
    palette,
    panels,
    series_lines,
)
from analysis.plots.figures.profiles import FigureData, last, middle, profiles, side_by_side, words_for
from analysis.results.tables import rows_matching
from analysis.statistics.intervals import over_seeds

_PARTS = {"block": "residual stream", "attention": "attention", "mlp": "MLP"}
_SETS: Mapping[str, Style] = {"": "solid", "prompts.": "dashed"}
_CHANCE = 0.5
_SHARES = {"attention": "#9DBFDF", "mlp": "#3D78B4", "input": "#A8A8A8"}
"""Colours of the contributions, different from those of the series."""


def activation_ratio(data: FigureData) -> LineChart | None:
    """Activation norm over its unedited value by block at the selected counts, by part."""
    rows = rows_matching(
        data.metrics,
        "activation/norm_ratio",
        r"(?P<set>(?:prompts\.)?)(?P<piece>block|attention|mlp)\.(?P<layer>\d{1,3})",
    ).astype({"layer": int})
    selected = profiles(rows, data.at, default=(middle, last))
    colours, dots = palette(data.metrics), marked(edited_layers(data.metrics))
    lines = {
        f"{title}, {profile.title}": _ratio_lines(profile.rows[profile.rows["piece"] == piece], colours, dots)
        for piece, title in _PARTS.items()
        for profile in selected
    }
    everything = [one for panel in lines.values() for one in panel]
    if not everything:
        return None
    both = any(one.style == "dashed" for one in everything)
    return LineChart(
        panels=panels(lines.items()),
        x_label="block",
        y_label="norm / unedited norm",
        scale=scale_for(values_of(everything)),
        styles={"solid": "fixed text", "dashed": "edited prompts"} if both else {},
        mark="edited block" if any(one.marked for one in everything) else "",
        columns=side_by_side(selected),
    )


def shares(data: FigureData) -> BarChart | None:
    """Share of every sub-module's output in the residual stream, by depth, unedited and per series."""
    rows = rows_matching(
        data.metrics, "activation/share", r"(?P<piece>input|attention|mlp)\.(?P<layer>\d{1,3})"
    )
    blocks = rows["layer"].astype(float)
    # left of block 0, with a gap in which both names have room
    outside = -1.5 - blocks.max() / 30
    rows = rows.assign(place=blocks.where(rows["piece"] != "input", outside))
    dots = marked(edited_layers(data.metrics))
    bars = [
        BarPanel(title=title, bars=_bars(here), marked=dots.get(series, frozenset()))
        for title, series, here in one_by_one(rows, data.at)
    ]
    if not bars:
        return None
    return BarChart(
        panels=tuple(bars),
        x_label="block",
        y_label="share of the contributions' norms",
        named=((outside, "in"),),
        mark="edited block" if any(panel.marked for panel in bars) else "",
    )


def probe_matrix(data: FigureData) -> HeatMap | None:
    """Accuracy of the probe that tells two blocks apart, for every pair, unedited and per series."""
    rows = rows_matching(data.metrics, "probe/accuracy", r"(?P<one>\d{1,3})-(?P<other>\d{1,3})")
    rows = rows.astype({"one": int, "other": int})
    grids = [Grid(title=title, values=_pairs(here)) for title, _, here in one_by_one(rows, data.at)]
    if not grids:
        return None
    return HeatMap(
        panels=tuple(grids),
        x_label="block",
        y_label="block",
        value_label="probe accuracy",
        limits=(_CHANCE, 1.0),
    )


def probe_curves(data: FigureData) -> LineChart | None:
    """Mean accuracy of the probes against counts, of all pairs and of some kinds of probe."""
    titles = {
        "probe/accuracy/mean": "all pairs of blocks",
        "probe/accuracy/edited": "pairs with an edited block",
        "probe/norm_only/mean": "by the norm alone",
        "probe/direct/mean": "edited or unedited?",
    }
    rows = data.metrics[data.metrics["key"].isin(titles)]
    lines = {title: curves(data.metrics, key) for key, title in titles.items()}
    values = values_of([one for panel in lines.values() for one in panel])
    if not len(values):
        return None
    ends = (0.0, float(rows["count"].max()))
    chance = level(_CHANCE, ends, label="chance", style="dotted")
    return LineChart(
        panels=panels((title, [chance, *panel]) for title, panel in lines.items() if panel),
        x_label=words_for(rows),
        y_label="probe accuracy",
        limits=(min(_CHANCE, float(values.min())) - 0.05, 1.02),
    )


def _ratio_lines(
    rows: pd.DataFrame, colours: Mapping[str, str], dots: Mapping[str, frozenset[float]]
) -> list[Line]:
    """A grey line at 1, then one line per series and set of texts."""
    rows = rows[np.isfinite(rows["value"])]
    if rows.empty:
        return []
    span = (float(rows["layer"].min()), float(rows["layer"].max()))
    lines = [level(1.0, span, label="unedited", style="dotted")]
    for prefix, style in _SETS.items():
        rows_of_set = rows[rows["set"] == prefix]
        lines += series_lines(
            rows_of_set, colours, x="layer", log=True, style=style, dots=dots if style == "solid" else None
        )
    return lines


def _bars(rows: pd.DataFrame) -> tuple[Bars, ...]:
    means = over_seeds(rows, by=("piece", "place")).sort_values("place")
    return tuple(
        Bars(
            label=piece.replace("mlp", "MLP"),
            colour=colour,
            x=here["place"].tolist(),
            y=here["mean"].tolist(),
            low=here["low"].tolist(),
            high=here["high"].tolist(),
        )
        for piece, colour in _SHARES.items()
        if len(here := means[means["piece"] == piece])
    )


def _pairs(rows: pd.DataFrame) -> np.ndarray:
    """(block, block) means over seeds, the later block of a pair in the row."""
    means = over_seeds(rows, by=("one", "other"))
    depth = 1 + int(means[["one", "other"]].to_numpy().max())
    values = np.full((depth, depth), np.nan)
    values[means["other"], means["one"]] = means["mean"]
    return values

"""Figures of where facts are stored: causal tracing, and the scores of edits by block."""

import numpy as np
import pandas as pd

from analysis.plots.charts.canvas import PALETTE
from analysis.plots.charts.heatmap import Grid, HeatMap
from analysis.plots.charts.lines import LineChart
from analysis.plots.figures.curves import edited_layers, marked, one_by_one, panels, series_lines
from analysis.plots.figures.profiles import FigureData, last, profiles
from analysis.results.tables import rows_matching
from analysis.statistics.intervals import over_seeds

_PARTS = {"block": "state", "mlp": "MLP", "attention": "attention"}
_ROWS = {
    "subject_first": "first subject token",
    "subject_middle": "middle subject tokens",
    "subject_last": "last subject token",
    "next": "first token after",
    "middle": "further tokens",
    "last": "last token",
}
_SCORES = {
    "edit/success/seen.rewrite": "efficacy (ES)",
    "edit/success/seen.paraphrase": "paraphrase (PS)",
    "edit/success/seen.neighbour": "neighbourhood (NS)",
    "edit/score/seen": "score",
}


def tracing(data: FigureData) -> HeatMap | None:
    """Mean indirect effect by class of token and block, per kind of site, unedited and per series."""
    rows = rows_matching(
        data.metrics, r"trace/(?P<piece>block|mlp|attention)", r"(?P<token>[a-z_]+)\.(?P<layer>\d{1,3})"
    ).astype({"layer": int})
    tokens = [token for token in _ROWS if token in set(rows["token"])]
    models = one_by_one(rows, data.at)
    before = (
        "" if any(series for _, series, _ in models) else "unedited · "
    )  # needed only beside edited models
    grids = [
        Grid(
            title=f"{title.removeprefix(before)}, {name}",
            values=_effects(here[here["piece"] == piece], tokens),
        )
        for title, _, here in models
        for piece, name in _PARTS.items()
        if piece in set(here["piece"])
    ]
    if not grids:
        return None
    top = max(float(np.nanmax(grid.values)) for grid in grids)
    return HeatMap(
        panels=tuple(grids),
        x_label="block",
        y_label="",
        value_label="indirect effect on P(true object)",
        limits=(0.0, top if top > 0 else 1.0),
        rows=tuple(_ROWS[token] for token in tokens),
        columns=len(_PARTS),
    )


def layer_sweep(data: FigureData) -> LineChart | None:
    """Scores of the edits against the edited block: one line per editor with runs of one block each.

    Only of editors with runs on at least two blocks, if their runs on one block differ only by seed.
    """
    rows = _of_one_block(data.metrics)
    names = rows["series"].unique().tolist()
    colours = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}
    dots = marked(rows)
    lines = {
        f"{title}, {profile.title}": series_lines(profile.rows, colours, x="layer", dots=dots)
        for key, title in _SCORES.items()
        for profile in profiles(rows[rows["key"] == key], data.at, default=(last,), whole=False)
    }
    if not lines:
        return None
    return LineChart(
        panels=panels(lines.items()), x_label="edited block", y_label="share of facts", limits=(-0.03, 1.03)
    )


def _of_one_block(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of the scores with the edited block in `layer`, and the editor (and model) as their series."""
    edited = edited_layers(metrics).drop_duplicates(["series", "layer"])
    edited = edited[~edited["series"].duplicated(keep=False)]
    rows = metrics[metrics["key"].isin(_SCORES)].merge(edited[["series", "layer"]], on="series")
    several = metrics["model"].nunique() > 1
    rows = rows.assign(swept=rows["editor"] + (" · " + rows["model"] if several else ""))
    groups = rows.groupby("swept")
    blocks, series = groups["layer"].nunique(), groups["series"].nunique()
    swept = blocks.index[(blocks > 1) & (blocks == series)]
    return rows[rows["swept"].isin(swept)].assign(series=rows["swept"])


def _effects(rows: pd.DataFrame, tokens: list[str]) -> np.ndarray:
    """(class of token, block) means over seeds."""
    means = over_seeds(rows, by=("token", "layer"))
    values = np.full((len(tokens), 1 + int(means["layer"].max())), np.nan)
    values[means["token"].map(tokens.index), means["layer"]] = means["mean"]
    return values

"""Figures of training: how all weights grow, low-rank adapters, the loss."""

import numpy as np

from analysis.plots.charts.lines import LineChart
from analysis.plots.figures.curves import chart_of, palette, panels, series_lines
from analysis.plots.figures.profiles import PART, FigureData, words_for
from analysis.results.tables import rows_matching

_ROUNDING = 1e-5
"""Relative change of a norm that float32 can make without any update."""

_KINDS = "norm/frobenius_ratio/"


def training(data: FigureData) -> LineChart | None:
    """Norm of the attention and the MLP matrices over their norm before training, against steps.

    Of parts that trained either of them, and of other parts that changed attention matrices, which editors do
    not edit.
    """
    metrics, colours = data.metrics, palette(data.metrics)
    titles = {_KINDS + "attention": "attention matrices", _KINDS + "mlp": "MLP matrices"}
    rows = metrics[metrics["key"].isin(titles)]
    rows = rows[np.isfinite(rows["value"])]
    values = rows.groupby([*PART, "key"])["value"]
    moved = values.transform("max") - values.transform("min") > _ROUNDING * values.transform("max")
    counts_as = moved & ((rows["unit"] != "edits") | (rows["key"] == _KINDS + "attention"))
    trained = rows[counts_as.groupby([rows[column] for column in PART]).transform("any")]
    lines = {
        title: series_lines(trained[trained["key"] == key], colours, log=True)
        for key, title in titles.items()
    }
    return chart_of(lines, x_label=words_for(trained), y_label="‖W‖ / ‖W₀‖ (Frobenius)")


def adapters(data: FigureData) -> LineChart | None:
    """Norms of low-rank adapters, all sites stacked: √Σ‖·‖², of their product and of both factors."""
    titles = {"norm_product": "product ΔW", "norm_a": "factor A", "norm_b": "factor B"}
    rows = rows_matching(data.metrics, "lora/(?P<norm>norm_product|norm_a|norm_b)", r"[a-z_]+\.\d+")
    squares = rows.assign(value=rows["value"] ** 2)
    whole = squares.groupby([*PART, "unit", "series", "norm", "count"])["value"].sum(min_count=1)
    stacked = whole.pow(0.5).reset_index()
    lines = {
        title: series_lines(stacked[stacked["norm"] == norm], palette(data.metrics))
        for norm, title in titles.items()
    }
    return chart_of(lines, x_label=words_for(rows), y_label="norm (Frobenius)", columns=3)


def training_loss(data: FigureData) -> LineChart | None:
    """Mean loss of a step's tokens against steps; logarithmic if it is always positive."""
    rows = data.metrics[data.metrics["key"] == "train/loss/step"]
    rows = rows[np.isfinite(rows["value"])]
    if rows.empty:
        return None
    log = bool((rows["value"] > 0).all())
    return LineChart(
        panels=panels([("", series_lines(rows, palette(data.metrics), log=log))]),
        x_label=words_for(rows),
        y_label="training loss (nats a token)",
        scale="log" if log else "linear",
    )

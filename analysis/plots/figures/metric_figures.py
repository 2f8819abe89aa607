"""Line charts of single metrics by their keys, also of those that the table of metrics does not have."""

import difflib
import re
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from analysis.metrics import metric_of
from analysis.plots.charts.lines import LineChart
from analysis.plots.charts.save import Chart
from analysis.plots.figures.curves import chart_of, curves
from analysis.plots.figures.profiles import FigureData, over_tokens, words_for
from analysis.plots.figures.registry import FigureSpec, X
from editors.errors import ConfigError

MOST = 40
"""Other metrics that a report draws; `figures --key` draws any of them."""


def key_charts(
    metrics: pd.DataFrame, keys: Sequence[str], *, x: X = "steps"
) -> list[tuple[FigureSpec, Chart]]:
    """A line chart per key; keys without a finite number are left out.

    Raises:
        ConfigError: for a key that no run measured.
    """
    data = FigureData(metrics=over_tokens(metrics) if x == "tokens" else metrics)
    known = metrics["key"].unique().tolist()
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=3) or known[:3]
            raise ConfigError(f"--key {key}: no run measured it; measured were {', '.join(close)}, …")
    specs = [_spec(key, place) for place, key in enumerate(dict.fromkeys(keys), start=1)]
    built = [(spec, spec.build(data)) for spec in specs]
    return [(spec, chart) for spec, chart in built if chart is not None]


def other_keys(metrics: pd.DataFrame) -> list[str]:
    """Keys that the table of metrics does not have, sorted: those of a user's own stages and editors."""
    return sorted(key for key in metrics["key"].unique() if metric_of(key) is None)


def _spec(key: str, place: int) -> FigureSpec:
    return FigureSpec(
        number=str(place),
        name="metric-" + re.sub(r"[^A-Za-z0-9_.-]", "-", key),
        title=key,
        caption="",
        build=partial(_chart, key=key),
    )


def _chart(data: FigureData, key: str) -> LineChart | None:
    rows = data.metrics[data.metrics["key"] == key]
    if not np.isfinite(rows["value"]).any():
        return None
    return chart_of({"": curves(data.metrics, key)}, x_label=words_for(rows), y_label=key)

"""From rows of the tidy table to the lines of a chart."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd

from analysis.plots.charts.canvas import NEUTRAL, PALETTE
from analysis.plots.charts.lines import Curve, Line, LineChart, Panel, Style, values_of
from analysis.plots.charts.scales import Scale, scale_for
from analysis.plots.figures.profiles import PART, last, profiles, start
from analysis.results.tables import rows_matching
from analysis.statistics.intervals import over_seeds

EDITORS = (
    "memit", "rome", "encore", "alphaedit", "ultraedit", "emmet", "pmet",
    "r_rome", "mend", "rect", "prune", "ft", "ft_l", "lora",
)  # fmt: skip
"""Editors with a colour of their own, in the order of `PALETTE`."""

MANY_SEEDS = 5
"""Seeds from which the interval of their mean says more than they do: that of two is thirteen times as wide
as they are apart."""


def palette(metrics: pd.DataFrame) -> dict[str, str]:
    """A colour per series, the same in every figure of the table.

    An editor has the same colour in all tables. Further series of it, and those of other editors, take the
    colours that no editor of the table has, in their order. A column `colour` goes before all that.
    """
    if "colour" in metrics:
        given = metrics.drop_duplicates("series")[["series", "colour"]]
        return {str(series): str(colour) for series, colour in given.itertuples(index=False)}
    editors = metrics.drop_duplicates("series").set_index("series")["editor"].astype(str)
    own = {name: PALETTE[place] for place, name in enumerate(EDITORS)}
    taken = {own[editor] for editor in editors if editor in own}
    free = cycle([colour for colour in PALETTE if colour not in taken] or PALETTE)
    colours: dict[str, str] = {}
    for series, editor in editors.items():
        colour = own.get(editor)
        colours[str(series)] = next(free) if colour is None or colour in colours.values() else colour
    return colours


def panels(candidates: Iterable[tuple[str, Sequence[Line]]]) -> tuple[Panel, ...]:
    """One panel per title that has lines."""
    return tuple(Panel(title=title, lines=tuple(lines)) for title, lines in candidates if lines)


def by_layer(metrics: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Rows whose key is `quantity/<site>.<layer>`, with columns site and layer."""
    return rows_matching(metrics, quantity, r"(?P<site>[a-z_]+)\.(?P<layer>\d{1,3})").astype({"layer": int})


def edited_layers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Series, site and layer of the edited matrices: those with an update of their own."""
    updates = by_layer(metrics, "norm/delta")
    return updates[["series", "site", "layer"]].drop_duplicates()


def marked(edited: pd.DataFrame) -> dict[str, frozenset[float]]:
    """The edited blocks of every series."""
    groups = edited.groupby("series")["layer"]
    return {str(name): frozenset(layers.astype(float)) for name, layers in groups}


def curves(
    metrics: pd.DataFrame, key: str, *, style: Style = "solid", log: bool = False, strength: float = 1.0
) -> list[Line]:
    """One line per series: the metric `key` against counts, means over seeds (geometric with `log`)."""
    rows = metrics[metrics["key"] == key]
    return series_lines(rows, palette(metrics), style=style, log=log, strength=strength)


def series_lines(
    rows: pd.DataFrame,
    colours: Mapping[str, str],
    *,
    x: str = "count",
    style: Style = "solid",
    log: bool = False,
    strength: float = 1.0,
    dots: Mapping[str, frozenset[float]] | None = None,
) -> list[Line]:
    """One line per series: `value` of the rows against the column `x`, with dots at the places `dots`."""
    points = over_seeds(rows, by=("series", x), log=log)
    of_series = dict(list(rows.groupby("series")))
    return [
        line(
            points[points["series"] == name], of_series[name], x, label=name, colour=colour, style=style,
            strength=strength, marked=(dots or {}).get(name, frozenset()),
        )
        for name, colour in colours.items()
        if name in set(points["series"])
    ]  # fmt: skip


def changed_sites(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Kinds of matrix whose norm changed in some run by more than rounding; all kinds if none did."""
    both = before.merge(after, on=["run", "site", "layer"], suffixes=("_before", "_after"))
    moved = both[(both["value_after"] / both["value_before"] - 1).abs() > 1e-5]
    return sorted((moved if len(moved) else both)["site"].unique())


def unedited_lines(before: pd.DataFrame) -> list[Line]:
    """Value against layer in the unedited model: one grey line per model."""
    starts = over_seeds(before, by=("model", "layer"), log=True)
    models = starts["model"].unique().tolist()
    return [
        line(
            starts[starts["model"] == model], before[before["model"] == model], "layer",
            label=unedited(model, models), colour=NEUTRAL,
        )
        for model in models
    ]  # fmt: skip


def unedited(model: str, models: Sequence[str]) -> str:
    """The label of an unedited model among those shown."""
    return "unedited" if len(models) == 1 else f"unedited · {model}"


def one_by_one(rows: pd.DataFrame, at: Sequence[int]) -> list[tuple[str, str, pd.DataFrame]]:
    """Title, series and rows of each panel: first the unedited models, then every series at every count."""
    rows = rows[np.isfinite(rows["value"])]
    before = start(rows)
    models = before["model"].unique().tolist()
    entries = [(unedited(model, models), "", before[before["model"] == model]) for model in models]
    for series in rows["series"].unique():
        for profile in profiles(rows[rows["series"] == series], at, default=(last,)):
            entries.append((f"{series}, {profile.title}", str(series), profile.rows))
    return entries


def level(value: float, span: tuple[float, float], *, label: str, style: Style = "solid") -> Line:
    """A level grey line over the span of x."""
    values = [value, value]
    return Line(label=label, colour=NEUTRAL, x=span, y=values, low=values, high=values, style=style)


def growth_terms(metrics: pd.DataFrame) -> pd.DataFrame:
    """Per part of a run, `term` and count: the cumulated term over ‖W₀‖², both summed over edited matrices.

    W₀ is the matrix at the start of the part. Parts whose terms do not add up to the growth are left out: not
    every step logged them, or another part changed the matrices in between.
    """
    terms = pd.concat(
        [by_layer(metrics, f"norm/{term}").assign(term=term) for term in ("growth_cross", "growth_square")]
    )
    norms = by_layer(metrics, "norm/frobenius").assign(value=lambda rows: rows["value"] ** 2)
    if terms.empty or norms.empty:
        return terms.iloc[:0]
    matrix = [*PART, "site", "layer"]
    norms = norms.merge(terms[matrix].drop_duplicates(), on=matrix).sort_values("count", kind="stable")
    before = norms.drop_duplicates(matrix, keep="first").groupby(PART)["value"].sum()
    after = norms.drop_duplicates(matrix, keep="last").groupby(PART)["value"].sum()
    summed = terms.groupby([*PART, "unit", "series", "term", "count"])["value"].sum().reset_index()
    part = pd.MultiIndex.from_frame(summed[PART])
    summed["value"] = summed.groupby([*PART, "term"])["value"].cumsum() / before.reindex(part).to_numpy()
    total = summed.drop_duplicates([*PART, "term"], keep="last").groupby(PART)["value"].sum()
    growth = after / before - 1
    # 2 %: both sides come from float32 weights; terms logged at every second step are off by far more.
    complete = total.index[(total - growth).abs() <= 0.02 * (1 + growth.abs())]
    return summed[part.isin(complete)]


def singular_values(metrics: pd.DataFrame) -> pd.DataFrame:
    """Per part, `place` (1 for the largest) and count: geometric mean of σ over the matrices that changed.

    Matrices that changed are measured after the start, the others only at the start.
    """
    rows = rows_matching(metrics, r"norm/singular_(?P<place>\d{1,3})", r"(?P<site>[a-z_]+\.\d+)").astype(
        {"place": int}
    )
    matrix = [*PART, "site"]
    rows = rows.merge(rows.loc[rows["count"] > 0, matrix].drop_duplicates(), on=matrix)
    rows = rows[(rows["value"] > 0) & np.isfinite(rows["value"])].assign(
        value=lambda positive: np.log(positive["value"])
    )
    means = rows.groupby([*PART, "series", "unit", "place", "count"])["value"].mean().reset_index()
    return means.assign(value=np.exp(means["value"]))


def chart_of(
    lines: dict[str, list[Line]], *, x_label: str, y_label: str, mark: str = "", columns: int = 2
) -> LineChart | None:
    """A chart of lines by the title of their panel, on a suitable scale; None without lines."""
    everything = [line for panel in lines.values() for line in panel]
    if not everything:
        return None
    return LineChart(
        panels=panels(lines.items()),
        x_label=x_label,
        y_label=y_label,
        scale=scale_for(values_of(everything)),
        mark=mark if any(line.marked for line in everything) else "",
        columns=columns,
    )


def counts_scale(counts: pd.Series) -> Scale:
    """Symlog for counts that are spread as 1, 10, 100 are: half of them within a fifth of the way."""
    positive = sorted(set(counts[counts > 0]))
    spread = len(positive) > 2 and positive[len(positive) // 2] <= 0.2 * positive[-1]
    return "symlog" if spread else "linear"


def line(
    points: pd.DataFrame,
    rows: pd.DataFrame,
    x: str,
    *,
    label: str,
    colour: str,
    style: Style = "solid",
    strength: float = 1.0,
    marked: frozenset[float] = frozenset(),
) -> Line:
    """A line through `points`, the means of `over_seeds`, from left to right.

    Its band is their interval from `MANY_SEEDS` seeds on; fewer are shown as they are, the curves in `rows`.
    """
    ordered = points.sort_values(x)
    few = ordered["seeds"].max() < MANY_SEEDS
    return Line(
        label=label,
        colour=colour,
        x=ordered[x].astype(float).tolist(),
        y=ordered["mean"].tolist(),
        low=ordered["mean" if few else "low"].tolist(),
        high=ordered["mean" if few else "high"].tolist(),
        seeds=tuple(_curves_of_seeds(rows, x)) if few else (),
        style=style,
        strength=strength,
        marked=marked,
    )


def _curves_of_seeds(rows: pd.DataFrame, x: str) -> Iterator[Curve]:
    """x and value of every part of a run, if there are several."""
    finite = rows[np.isfinite(rows["value"])].sort_values(x, kind="stable")
    parts = [part for _, part in finite.groupby(PART)]
    if len(parts) > 1:
        yield from ((part[x].astype(float).tolist(), part["value"].tolist()) for part in parts)

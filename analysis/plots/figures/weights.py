"""Figures of the weights: norms, singular values, why they grow."""

import pandas as pd

from analysis.plots.charts.lines import Line, LineChart, Panel, values_of
from analysis.plots.charts.scales import scale_for
from analysis.plots.figures.curves import (
    by_layer,
    changed_sites,
    chart_of,
    counts_scale,
    curves,
    edited_layers,
    growth_terms,
    marked,
    palette,
    panels,
    series_lines,
    singular_values,
    unedited_lines,
)
from analysis.plots.figures.profiles import (
    FigureData,
    changed_by,
    last,
    middle,
    profiles,
    side_by_side,
    start,
    words_for,
)

_KINDS = "norm/frobenius_ratio/"

_FAINTER = 0.15
"""Opacity that every further singular value loses, if there are few."""


def norm_ratio(data: FigureData) -> LineChart | None:
    """Norm of the edited matrices over their unedited norm against counts; all other matrices dashed."""
    solid = curves(data.metrics, _KINDS + "edited", log=True)
    dashed = curves(data.metrics, _KINDS + "static", style="dashed", log=True)
    rows = data.metrics[data.metrics["key"] == _KINDS + "edited"]
    if not solid + dashed:
        return None
    return LineChart(
        panels=panels([("", [*solid, *dashed])]),
        x_label=words_for(rows),
        y_label="‖W‖ / ‖W₀‖ (Frobenius)",
        scale=scale_for(values_of([*solid, *dashed])),
        styles={"solid": f"{changed_by(rows)} matrices", "dashed": "all other matrices"} if dashed else {},
    )


def norm_layers(data: FigureData) -> LineChart | None:
    """Frobenius norm of every block's matrix at the selected counts: one panel per site and count.

    Sites that no run changed are left out, unless no run changed any. Dots mark the matrices that were
    edited: those with a `norm/delta` of their own.
    """
    norms = by_layer(data.metrics, "norm/frobenius")
    before = start(norms)
    selected = profiles(norms, data.at, default=(middle, last))
    after = pd.concat([profile.rows for profile in selected]) if selected else before
    edited = edited_layers(data.metrics)
    lines: dict[str, list[Line]] = {}
    for site in changed_sites(before, after):
        dots, colours = marked(edited[edited["site"] == site]), palette(data.metrics)
        grey = unedited_lines(before[before["site"] == site])
        for profile in selected:
            rows = profile.rows[profile.rows["site"] == site]
            edges = series_lines(rows, colours, x="layer", log=True, dots=dots)
            lines[f"{site}, {profile.title}"] = [*grey, *edges]
        if not selected:
            lines[site] = grey
    columns = side_by_side(selected) if selected else 2
    return chart_of(lines, x_label="block", y_label="‖W‖ (Frobenius)", mark="edited block", columns=columns)


def singular(data: FigureData) -> LineChart | None:
    """The leading singular values of the changed matrices against counts: one panel per series.

    Geometric mean over the matrices; the largest value is drawn strongest.
    """
    values = singular_values(data.metrics)
    if values.empty:
        return None
    places = sorted(values["place"].unique().tolist())
    fainter = min(_FAINTER, 0.8 / len(places))
    strengths = {place: 1 - fainter * index for index, place in enumerate(places)}
    by_series = [
        Panel(title=name, lines=tuple(_singular_lines(values, {name: colour}, strengths)))
        for name, colour in palette(data.metrics).items()
        if name in set(values["series"])
    ]
    return LineChart(
        panels=tuple(by_series),
        x_label=words_for(values),
        y_label="singular value of W",
        x_scale=counts_scale(values["count"]),
        scale=scale_for(values["value"].to_numpy()),
        strengths={strength: f"σ{_subscript(place)}" for place, strength in strengths.items()},
    )


def growth(data: FigureData) -> LineChart | None:
    """The squared norm's growth since the start of the part, split into its two terms.

    ‖W + Δ‖² − ‖W‖² = 2⟨W, Δ⟩ + ‖Δ‖² for every step; both terms are summed over the edited matrices and the
    steps so far, and divided by the squared norm before. Together they are ratio² − 1.
    """
    terms = growth_terms(data.metrics)
    log = bool((terms["value"] > 0).all())
    titles = {"growth_cross": "cross term 2⟨W, Δ⟩", "growth_square": "‖Δ‖²"}
    lines = {
        title: series_lines(terms[terms["term"] == term], palette(data.metrics), log=log)
        for term, title in titles.items()
    }
    return chart_of(lines, x_label=words_for(terms), y_label="sum over edits / ‖W₀‖²")


def _singular_lines(values: pd.DataFrame, colour: dict[str, str], strengths: dict[int, float]) -> list[Line]:
    return [
        one
        for place, strength in strengths.items()
        for one in series_lines(values[values["place"] == place], colour, log=True, strength=strength)
    ]


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))

"""The papers' figures, made from the tidy table of any set of runs.

A figure is a function from the table to a `Chart` and a row of `FIGURES`; one that finds no key of its own
makes a chart without panels and is left out. Lines are means over seeds, bands 95 % intervals of the mean.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.charts import Chart, Format, save, values_of
from analysis.curves import (
    by_layer,
    changed_sites,
    curves,
    growth_terms,
    layer_lines,
    palette,
    panels,
    series_lines,
)
from analysis.scales import scale_for
from editors.errors import ConfigError

_SHARE = (-0.03, 1.03)
"""Limits of an axis of shares, so that lines at 0 and 1 are seen whole."""


@dataclass(frozen=True, kw_only=True)
class FigureSpec:
    """A row of the table of figures."""

    name: str
    """Of the file, and of the choice on the command line."""
    title: str
    caption: str
    build: Callable[[pd.DataFrame], Chart]


def norm_ratio(metrics: pd.DataFrame) -> Chart:
    """Norm of the edited matrices over their unedited norm against edits; all other matrices dashed."""
    solid = curves(metrics, "norm/frobenius_ratio/edited", log=True)
    dashed = curves(metrics, "norm/frobenius_ratio/static", style="dashed", log=True)
    return Chart(
        panels=panels([("", [*solid, *dashed])]),
        x_label="edits",
        y_label="‖W‖ / ‖W₀‖ (Frobenius)",
        scale=scale_for(values_of([*solid, *dashed])),
        styles={"solid": "edited matrices", "dashed": "all other matrices"} if dashed else {},
    )


def norm_layers(metrics: pd.DataFrame) -> Chart:
    """Frobenius norm of every block's matrix before the first and after the last edit, a panel per site.

    Sites that no run changed are left out, unless no run changed any. Dots mark the matrices that were
    edited: those with a `norm/delta` of their own.
    """
    norms = by_layer(metrics, "norm/frobenius/").sort_values("edits", kind="stable")
    before = norms.drop_duplicates(["run", "site", "layer"], keep="first")
    after = norms.drop_duplicates(["run", "site", "layer"], keep="last")
    edited, colours = by_layer(metrics, "norm/delta/"), palette(metrics)
    lines = {
        site: layer_lines(
            *(rows[rows["site"] == site] for rows in (before, after)),
            edited=edited[edited["site"] == site],
            colours=colours,
        )
        for site in changed_sites(before, after)
    }
    everything = [line for found in lines.values() for line in found]
    return Chart(
        panels=panels(lines.items()),
        x_label="block",
        y_label="‖W‖ (Frobenius)",
        scale=scale_for(values_of(everything)),
        mark="edited block" if any(line.marked for line in everything) else "",
    )


def edit_scores(metrics: pd.DataFrame) -> Chart:
    """Efficacy, paraphrase and neighbourhood success over all edits so far, and of the first 50."""
    keys = {
        "edit/success/seen.rewrite": "efficacy (ES)",
        "edit/success/seen.paraphrase": "paraphrase (PS)",
        "edit/success/seen.neighbour": "neighbourhood (NS)",
        "edit/success/first50.rewrite": "ES of the first 50",
    }
    return _shares(metrics, keys, "share of facts")


def known_facts(metrics: pd.DataFrame) -> Chart:
    """Share of facts that nobody edited and that the model still answers."""
    keys = {"edit/known/unedited": "never-edited subjects", "edit/known/other": "edited subjects"}
    return _shares(metrics, keys, "share of facts known")


def downstream(metrics: pd.DataFrame) -> Chart:
    """Accuracy on every downstream task, their mean first."""
    found = metrics.loc[metrics["key"].str.fullmatch(r"downstream/[^/]+/acc"), "key"]
    tasks = sorted({key.split("/")[1] for key in found}, key=lambda task: (task != "mean", task))
    return _shares(metrics, {f"downstream/{task}/acc": task for task in tasks}, "accuracy")


def growth(metrics: pd.DataFrame) -> Chart:
    """The squared norm's growth since the start, split into its two terms.

    ‖W + Δ‖² − ‖W‖² = 2⟨W, Δ⟩ + ‖Δ‖² for every step; both terms are summed over the edited matrices and the
    steps so far, and divided by the unedited squared norm. Together they are ratio² − 1.
    """
    terms = growth_terms(metrics)
    log = bool((terms["value"] > 0).all())
    titles = {"growth_cross": "cross term 2⟨W, Δ⟩", "growth_square": "‖Δ‖²"}
    lines = {
        title: series_lines(terms[terms["term"] == term], palette(metrics), log=log)
        for term, title in titles.items()
    }
    return Chart(
        panels=panels(lines.items()),
        x_label="edits",
        y_label="sum over edits / ‖W₀‖²",
        scale=scale_for(values_of([line for found in lines.values() for line in found])),
    )


FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        name="norms",
        title="Norm of the edited matrices",
        caption="Frobenius norm of the edited matrices (stacked) relative to the unedited model.",
        build=norm_ratio,
    ),
    FigureSpec(
        name="layers",
        title="Norm by block, before and after",
        caption="Frobenius norm of every block's matrix in the unedited model and after the last edit. "
        "Dots: edited blocks. Kinds of matrix that no run changed are not shown.",
        build=norm_layers,
    ),
    FigureSpec(
        name="scores",
        title="Edit scores and retention",
        caption="Share of facts for which the wanted object is more probable than the other one: over all "
        "edits so far on the edited prompt, its paraphrases and neighbours, and over the first 50 edits.",
        build=edit_scores,
    ),
    FigureSpec(
        name="known",
        title="Facts that nobody edited",
        caption="Share of unedited facts that the model still answers with the true object: of subjects that "
        "were never edited, and other facts of edited subjects.",
        build=known_facts,
    ),
    FigureSpec(
        name="downstream",
        title="Downstream ability",
        caption="Accuracy on downstream tasks; “mean” is their plain average.",
        build=downstream,
    ),
    FigureSpec(
        name="growth",
        title="Why the norm grows",
        caption="Growth of the edited matrices' squared norm since the start, split into the cross term and "
        "the squared updates, relative to the unedited squared norm. The two add up to (‖W‖ / ‖W₀‖)² − 1.",
        build=growth,
    ),
)


def charts(metrics: pd.DataFrame, only: Sequence[str] = ()) -> list[tuple[FigureSpec, Chart]]:
    """The figures that the table has keys for, in the order of `FIGURES`; `only` chooses by name.

    Raises ConfigError for a name that is no figure.
    """
    known = [spec.name for spec in FIGURES]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(f"figure {unknown[0]!r} does not exist; choose from {', '.join(known)}")
    built = [(spec, spec.build(metrics)) for spec in FIGURES if not only or spec.name in only]
    return [(spec, chart) for spec, chart in built if chart.panels]


def save_figures(
    drawn: Iterable[tuple[FigureSpec, Chart]], folder: Path, formats: Sequence[Format] = ("png", "svg", "pdf")
) -> list[Path]:
    """Write every chart in every format as `folder/<name>.<format>`."""
    return [path for spec, chart in drawn for path in save(chart, folder / spec.name, formats)]


def _shares(metrics: pd.DataFrame, titles: Mapping[str, str], y_label: str) -> Chart:
    """A panel per metric key, on an axis from 0 to 1."""
    found = panels((title, curves(metrics, key)) for key, title in titles.items())
    return Chart(panels=found, x_label="edits", y_label=y_label, limits=_SHARE)

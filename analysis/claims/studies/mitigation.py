"""Studies of what stops the damage: all regularizers, alone and in pairs, and the plain reset of the norm."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.claims.evidence import SEQUENCE, Evidence, Measure
from analysis.claims.study import (
    DOWNSTREAM,
    EDITED,
    KNOWN,
    NOTICEABLE_ALONE,
    SUCCESS,
    Drawing,
    Study,
    Table,
    rises,
)
from analysis.claims.verdicts import Claim
from analysis.plots.charts.canvas import NEUTRAL, PALETTE
from analysis.plots.charts.points import Spread, Track, TrackChart
from analysis.plots.charts.scales import scale_for

_PERIOD = "intervention.editor.regularizers.norm_reset.every"
"""The setting with the edits between two resets."""
_BUDGET = 0.05
"""Edit success that a regularizer may cost within the same budget."""
_REGULARIZERS = (
    "history", "hypersphere", "mpes", "norm_anchor", "norm_constraint", "prune", "rect", "subspace_guard",
)  # fmt: skip
"""Regularizers that do not keep the norm by construction."""


def _frontier(evidence: Evidence) -> pd.DataFrame:
    """One row per model and combination: means over seeds, whether within the budget and on the frontier."""
    numbers = {
        "success": evidence.last(SUCCESS),
        "norm ratio": evidence.last(EDITED),
        "downstream": evidence.last(DOWNSTREAM),
        "never edited": evidence.last(KNOWN),
    }
    by = [evidence.runs["model"], evidence.runs["regularizers"]]
    table = evidence.averages(numbers, by)
    tables = [_of_one_model(rows) for _, rows in table.groupby("model")]
    return pd.concat(tables, ignore_index=True) if tables else table


def _of_one_model(table: pd.DataFrame) -> pd.DataFrame:
    plain = table.loc[table["regularizers"] == "", "success"]
    if plain.empty:
        return table.iloc[:0]
    within = table["success"] >= float(plain.iloc[0]) - _BUDGET
    return table.assign(within=within, frontier=within & _undominated(table[within], table.index))


def _undominated(table: pd.DataFrame, index: pd.Index) -> pd.Series:
    """Whether no other row has both less growth and more downstream ability."""
    growth, ability = table["norm ratio"].to_numpy(), table["downstream"].to_numpy()
    no_worse = (growth[:, None] <= growth) & (ability[:, None] >= ability)
    better = (growth[:, None] < growth) | (ability[:, None] > ability)
    best = pd.Series(~(no_worse & better).any(axis=0), table.index)
    return best.reindex(index, fill_value=False)


def _frontier_table(evidence: Evidence) -> pd.DataFrame:
    table = _frontier(evidence)
    if table.empty:
        return table
    rows = _named(table[table["frontier"] | (table["regularizers"] == "")])
    return rows.assign(frontier=_places(rows))[
        ["frontier", "model", "regularizers", "success", "norm ratio", "downstream", "never edited"]
    ]


def _alone(evidence: Evidence) -> pd.DataFrame:
    """The rows with at most one regularizer."""
    table = _frontier(evidence)
    if table.empty:
        return table
    alone = _named(table[~table["regularizers"].str.contains(", ")])
    return alone[["model", "regularizers", "within", "success", "norm ratio", "downstream", "never edited"]]


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of growth; no regularizer is called `none`."""
    return table.assign(regularizers=table["regularizers"].replace("", "none")).sort_values("norm ratio")


def _places(table: pd.DataFrame) -> pd.Series:
    """The number of each row on the frontier, in the order of the table; a dash for other rows."""
    return table["frontier"].cumsum().astype(str).where(table["frontier"], "–")


def _frontier_chart(evidence: Evidence) -> TrackChart | None:
    table = _frontier(evidence)
    if len(table):
        table = table[np.isfinite(table["norm ratio"]) & np.isfinite(table["downstream"])]
    if table.empty:
        return None
    count = pd.Series(
        [len(names.split(", ")) if names else 0 for names in table["regularizers"]], table.index
    )
    groups = {
        "none": (table[count == 0], NEUTRAL, False),
        "one": (table[(count == 1) & table["within"]], PALETTE[0], False),
        "two": (table[(count == 2) & table["within"]], PALETTE[1], False),
        "edit success lost": (table[~table["within"]], PALETTE[2], False),
        "frontier": (table[table["frontier"]].sort_values("norm ratio"), PALETTE[3], True),
    }
    return TrackChart(
        tracks=tuple(
            _points(rows, label, colour, joined=joined)
            for label, (rows, colour, joined) in groups.items()
            if len(rows)
        ),
        x_label="‖W‖ / ‖W₀‖ of the edited matrices",
        y_label="mean downstream accuracy",
        scale=scale_for(table["norm ratio"].to_numpy()),
    )


def _points(rows: pd.DataFrame, label: str, colour: str, *, joined: bool) -> Track:
    return Track(
        label=label,
        colour=colour,
        x=Spread.exact(rows["norm ratio"].tolist()),
        y=Spread.exact(rows["downstream"].tolist()),
        notes=rows["regularizers"].replace("", "none").tolist(),
        marks=_places(rows).tolist() if joined else (),
        joined=joined,
    )


def _within_budget(evidence: Evidence, values: pd.Series) -> pd.Series:
    """The values of runs whose edit success is at most 0.05 below that without any regularizer."""
    success = evidence.last(SUCCESS).reindex(values.index)
    model = evidence.runs["model"].reindex(values.index)
    is_plain = evidence.runs["regularizers"].reindex(values.index) == ""
    plain = success[is_plain].groupby(model[is_plain]).mean()
    return values[success >= model.map(plain) - _BUDGET]


def _effects(evidence: Evidence, key: str, names: Sequence[str], *, relative: bool) -> pd.DataFrame:
    """Effects of regularizers on the last value of a metric, over all partners, within the budget.

    Beside a reset of the norm the effect of another regularizer on norms cannot be seen: these pairs are
    left out.
    """
    values = _within_budget(evidence, evidence.last(key))
    has_reset = evidence.uses("norm_reset")
    cases = []
    for name in names:
        effect = evidence.effect(values, name, relative=relative)
        if name != "norm_reset":
            effect = effect[~has_reset.reindex(effect.index)]
        cases.append(pd.DataFrame({"case": name, "value": effect.tolist()}))
    return pd.concat(cases, ignore_index=True) if cases else pd.DataFrame(columns=["case", "value"])


def _norm_effects(evidence: Evidence) -> pd.DataFrame:
    """Relative effect of every regularizer on the norm ratio."""
    return _effects(evidence, EDITED, _REGULARIZERS, relative=True)


def _saves(statement: str, ability: str, key: str) -> Claim:
    """The claim that regularizers raise an ability."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        names = {name for text in evidence.runs["regularizers"] for name in text.split(", ") if name}
        return _effects(evidence, key, sorted(names), relative=False)

    quantity = (
        f"{ability} with the regularizer minus without, of runs within 0.05 of MEMIT's edit success; "
        "what has no such run is left out; repeats are partners, one seed"
    )
    return rises(statement, quantity, measure)


def _reset(key: str) -> Measure:
    """Last value with the reset minus without it, in cases by editor and period."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        differences = evidence.effect(evidence.last(key), "norm_reset")
        return evidence.repeats(differences, (*SEQUENCE, _PERIOD))

    return measure


STUDIES = (
    Study(
        name="mitigation",
        question="Which regularizers, alone and in pairs, keep norm and ability at the same budget of edit "
        "success?",
        claims=(
            Claim(
                statement="Regularizers reduce the growth of the norm.",
                quantity="norm ratio with the regularizer over that without, minus 1, of runs within 0.05 of "
                "MEMIT's edit success; left out are norm_reset, which keeps the norm by construction, and "
                "what has no such run; repeats are partners, one seed",
                measure=_norm_effects,
                side="below",
            ),
            _saves(
                "Regularizers save downstream ability that MEMIT costs.",
                "mean downstream accuracy",
                DOWNSTREAM,
            ),
            _saves(
                "Regularizers save facts that nobody edited.",
                "share of never-edited facts still known",
                KNOWN,
            ),
        ),
        figures=(),
        tables=(
            Table(title="The frontier, at an edit success within 0.05 of MEMIT's", build=_frontier_table),
            Table(title="Each regularizer alone, and whether it is within that", build=_alone),
        ),
        drawings=(
            Drawing(
                name="frontier",
                caption="Downstream accuracy against norm growth, a point for each regularizer and each "
                "pair that makes sense; the frontier joins those within the budget of edit success that no "
                "other beats in both, with their numbers in the table.",
                build=_frontier_chart,
            ),
        ),
    ),
    Study(
        name="norm_reset",
        question="Does scaling the edited matrices back to their unedited norm, after every edit or every "
        "20, save what the model can do? "
        "It shrinks the unedited part of W too, so that this does not part growth from the loss of that.",
        claims=(
            rises(
                "Scaling W back to its unedited norm saves downstream ability.",
                "mean downstream accuracy with the reset minus without",
                _reset(DOWNSTREAM),
            ),
            rises(
                "Scaling W back to its unedited norm saves facts that nobody edited.",
                "share of never-edited facts still known, with the reset minus without",
                _reset(KNOWN),
            ),
            Claim(
                statement="The reset costs no edit success.",
                quantity="share of edits that succeed (ES), with the reset minus without",
                measure=_reset(SUCCESS),
                side="above",
                threshold=-_BUDGET,
                smallest_effect_alone=NOTICEABLE_ALONE,
            ),
        ),
        figures=("norms", "known", "downstream", "scores"),
        series=("editor", "regularizers", _PERIOD),
        facets=("editor",),
    ),
)

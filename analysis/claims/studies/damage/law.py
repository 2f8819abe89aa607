"""Which number of a drift tells the damage: its norm, or its energy on keys that occur?

Every measurement of every run is a point: real edits and all controls of them. A number that tells the damage
puts these points in order whatever kind of drift made them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, Measure
from analysis.claims.study import DOWNSTREAM, EDITED, KNOWN, KNOWN_ASKED, Drawing, Table
from analysis.claims.verdicts import Claim
from analysis.plots.charts.points import Spread, Track, TrackChart
from analysis.plots.charts.scales import scale_for
from analysis.plots.figures.curves import palette
from analysis.statistics.monotone import explained_share, rank_correlation

FUNCTIONAL = "norm/functional/edited"
LOSS = "text/loss/held_out"
CONTROL = "intervention.control.name"
"""The setting that names the control of a replay."""
_AT = ["run", "part", "count"]
NORM, DRIFT, REACH = "growth of the norm", "functional drift", "reach"
_PREDICTORS = {
    NORM: EDITED,
    DRIFT: FUNCTIONAL,
    "functional drift on subjects": "norm/functional_subjects/edited",
    REACH: "norm/functional_reach/edited",
}
"""Numbers that may tell the damage, by their name in tables."""
_DAMAGE = {
    "loss on text": LOSS,
    "known facts": KNOWN_ASKED,
    "facts never edited": KNOWN,
    "downstream": DOWNSTREAM,
}
"""Numbers that damage changes."""
_RISES = ("loss on text",)
"""Those that damage raises; it lowers the others."""
EXPLAINED = "explained by a rising curve"
"""Column of the table: share of a damage's variance."""
_DIGITS = 6
"""Of the growth of the norm: below them lies rounding where a control keeps the norm, which must not rank."""
HOLD_THE_NORM = ("norm_kept", "rotated")
"""Controls whose norm cannot tell anything, because it is always that of the unedited matrix."""
_LEAST = 0.1
"""Smallest difference of two rank correlations that counts."""
ORDERS = 0.9
"""Rank correlation from which a number is said to order the damage."""


def points(evidence: Evidence) -> pd.DataFrame:
    """One row per measurement after the start at which the functional drift was measured.

    Columns are the names of predictors and damages; damage is the change from the unedited model, and the
    growth of the norm its distance from no growth, |‖W‖ / ‖W₀‖ − 1|. Index: run, part, count.
    """
    columns = {
        name: evidence.series(key).set_index(_AT)["value"] for name, key in (_PREDICTORS | _DAMAGE).items()
    }
    table = pd.DataFrame(columns)
    for name in _DAMAGE:
        first = table[name].groupby(level="run").transform("first")
        table[name] = table[name] - first
    table[NORM] = (table[NORM] - 1).abs().round(_DIGITS)
    moved = table[DRIFT] > 0
    return table[moved]


def knowledge(evidence: Evidence) -> tuple[str, str]:
    """The damage to what the model knows, and its metric: known facts where they are asked as a task."""
    name = "known facts" if len(evidence.last(KNOWN_ASKED)) else "facts never edited"
    return name, _DAMAGE[name]


def _by_seed(evidence: Evidence, without: Sequence[str] = ()) -> dict[object, pd.DataFrame]:
    """The points of all runs of a seed, by seed, but for those of some controls."""
    table = points(evidence)
    runs = table.index.get_level_values("run")
    table = table[~evidence.setting(CONTROL).reindex(runs).isin(without).to_numpy()]
    seeds = evidence.runs["seed"].reindex(table.index.get_level_values("run")).to_numpy()
    return dict(iter(table.groupby(seeds)))


def _correlations(evidence: Evidence, predictor: str, damage: str) -> pd.Series:
    """Rank correlation of a predictor with a damage over the points of all runs of a seed, by seed."""
    correlations = {
        seed: rank_correlation(rows[predictor].to_numpy(float), _harm(rows, damage))
        for seed, rows in _by_seed(evidence).items()
    }
    return pd.Series(correlations, dtype=float).dropna()


def _harm(rows: pd.DataFrame, damage: str) -> np.ndarray:
    """A damage with the sign that makes more of it worse."""
    values = rows[damage].to_numpy(float)
    return values if damage in _RISES else -values


def _repeats(value: Callable[[Evidence], pd.Series]) -> Measure:
    """A measure of one case from a number by seed."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        values = value(evidence)
        return pd.DataFrame({"case": "all controls", "value": values}).reset_index(drop=True)

    return measure


def _advantage(evidence: Evidence) -> pd.Series:
    """By how much the functional drift orders the loss better than the growth of the norm does."""
    functional, norm = (_correlations(evidence, each, "loss on text") for each in (DRIFT, NORM))
    return functional - norm.reindex(functional.index)


def table(evidence: Evidence, without: Sequence[str] = ()) -> pd.DataFrame:
    """One row per predictor and damage: rank correlation and share of a rising curve, means over seeds.

    `without` are controls whose runs are left out.
    """
    groups, rows = [*_by_seed(evidence, without).values()], []
    if not groups:
        return pd.DataFrame()
    for damage in _DAMAGE:
        for predictor in _PREDICTORS:
            pairs = [(group[predictor].to_numpy(float), _harm(group, damage)) for group in groups]
            rows.append(
                {
                    "damage": damage,
                    "told by": predictor,
                    "rank correlation": pd.Series([rank_correlation(x, y) for x, y in pairs]).mean(),
                    EXPLAINED: pd.Series([explained_share(x, y) for x, y in pairs]).mean(),
                    "points by seed": sum(map(len, groups)) / len(groups),
                    "seeds": len(groups),
                }
            )
    return pd.DataFrame(rows).dropna(subset=["rank correlation"])


def chart(
    evidence: Evidence,
    predictor: str,
    x_label: str,
    *,
    damage: str = "loss on text",
    y_label: str = "loss on text − unedited (nats)",
    names: pd.Series | None = None,
) -> TrackChart | None:
    """A damage against a predictor, a track for every control or editor, or for each of the names by run.

    Growth of the norm has a linear axis: where the norm is kept, it is zero but for rounding.
    """
    table = points(evidence)[[predictor, damage]].dropna()
    table = table[np.isfinite(table.to_numpy()).all(axis=1)]
    if table.empty:
        return None
    if names is None:
        names = evidence.cases((CONTROL, "editor", "batch_size", "regularizers"))
    of_rows = names.reindex(table.index.get_level_values("run")).to_numpy()
    editors = evidence.runs["editor"].where(evidence.setting(CONTROL).isin(("", "real")), "")
    colours = palette(pd.DataFrame({"series": names, "editor": editors}).sort_values("series"))
    tracks = [
        Track(
            label="real edits" if name == "real" else str(name) or "edits",
            colour=colours[str(name)],
            x=Spread.exact(rows[predictor].tolist()),
            y=Spread.exact(rows[damage].tolist()),
            notes=[f"{name}, {count} edits" for _, _, count in rows.index],
            joined=False,
        )
        for name, rows in table.groupby(of_rows)
    ]
    return TrackChart(
        tracks=tuple(tracks),
        x_label=x_label,
        y_label=y_label,
        scale="linear" if predictor == NORM else scale_for(table[predictor].to_numpy()),
    )


def known_chart(
    evidence: Evidence, predictor: str, x_label: str, names: pd.Series | None = None
) -> TrackChart | None:
    """The change of what is known against a predictor."""
    damage, _ = knowledge(evidence)
    y_label = "change of known facts"
    return chart(evidence, predictor, x_label, damage=damage, y_label=y_label, names=names)


CLAIMS = (
    Claim(
        statement="The functional drift orders the damage of real edits and of all their controls.",
        quantity="rank correlation of the functional drift with the change of the loss on text, over every "
        "measurement of every run of a seed",
        measure=_repeats(lambda evidence: _correlations(evidence, DRIFT, "loss on text")),
        side="above",
        threshold=ORDERS,
    ),
    Claim(
        statement="It orders the damage better than the growth of the norm does.",
        quantity="that rank correlation minus the one of |‖W‖ / ‖W₀‖ − 1|",
        measure=_repeats(_advantage),
        side="above",
        threshold=0.0,
        smallest_effect=_LEAST,
    ),
)
TABLES = (
    Table(
        title="Which number of the drift tells the damage, over real edits and controls: positive where "
        "more of it goes with more damage; a rising curve is fitted to the points themselves, so that its "
        "share is optimistic",
        build=table,
    ),
)
DRAWINGS = (
    Drawing(
        name="law",
        caption="Change of the loss on text against the functional drift, a point for each measurement of "
        "each run.",
        build=lambda evidence: chart(evidence, DRIFT, DRIFT),
    ),
    Drawing(
        name="norm_law",
        caption="The same points against the growth of the norm, |‖W‖ / ‖W₀‖ − 1|.",
        build=lambda evidence: chart(evidence, NORM, "|norm ratio − 1|"),
    ),
    Drawing(
        name="drift_known",
        caption="Change of what is known against the functional drift.",
        build=lambda evidence: known_chart(evidence, DRIFT, DRIFT),
    ),
    Drawing(
        name="norm_known",
        caption="Change of what is known against the growth of the norm.",
        build=lambda evidence: known_chart(evidence, NORM, "|norm ratio − 1|"),
    ),
    Drawing(
        name="reach",
        caption="Change of what is known against reach, the first-order change of the last hidden state "
        "along the drift.",
        build=lambda evidence: known_chart(evidence, REACH, REACH),
    ),
)

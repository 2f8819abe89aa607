"""Study of the failure signatures: which fires first, with what lead, and what tells early that a run fails.

A run loses facts once the share of never-edited facts that it knows is below nine tenths of the unedited one.
The lead of an alarm is the number of edits from the alarm to the loss. In a run that loses none it is false.
"""

from collections.abc import Mapping

import pandas as pd
from sklearn.metrics import roc_auc_score

from analysis.claims.evidence import Evidence
from analysis.claims.studies.damage.law import FUNCTIONAL
from analysis.claims.study import DOWNSTREAM, EDITED, KNOWN, LATE, NORM_GROWTH, PROBE, Study, Table, rises
from analysis.claims.verdicts import Claim
from analysis.results.tables import alarms_of

_LEFT = 0.9
"""Share of the known facts below which a run has lost some."""
_EARLY = 8
"""The early moment is the first measurement at or after one in so many of the edits."""
_WARNS = ("norm_growth", "activation_shift", "probe_collapse", "ability_loss")


def losses(evidence: Evidence) -> pd.Series:
    """The count at which each run first had lost facts; NaN if it never had. Index: run."""
    rows = evidence.series(KNOWN)
    first = rows.groupby("run")["value"].transform("first")
    lost = rows[rows["value"] < _LEFT * first].groupby("run")["count"].min()
    return lost.reindex(rows["run"].unique()).astype(float)


def _fired(evidence: Evidence) -> pd.DataFrame:
    """The count at which each alarm fired: one row per run, one column per signature."""
    alarms = alarms_of(evidence.collection.metrics)
    wide = alarms.pivot_table(index="run", columns="signature", values="at", aggfunc="min")
    return wide.reindex(index=losses(evidence).index, columns=[*_WARNS])


def _leads(evidence: Evidence) -> pd.DataFrame:
    """Edits from the first alarm about norms, activations or probes to the loss of facts, if both occur."""
    states = _fired(evidence)[["norm_growth", "activation_shift", "probe_collapse"]].min(axis=1)
    return evidence.repeats((losses(evidence) - states).dropna(), ("editor",))


def _signals(evidence: Evidence) -> Mapping[str, pd.Series]:
    """Numbers of the early moment that may tell which runs will lose facts, by run; larger is worse."""
    return {
        "norm ratio": _early(evidence, EDITED),
        "late activations, distance from 1": (_early(evidence, LATE) - 1).abs(),
        "probes, 1 − accuracy": 1 - _early(evidence, PROBE),
        "functional drift": _early(evidence, FUNCTIONAL),
        "downstream, loss": -_early(evidence, DOWNSTREAM),
    }


def _early(evidence: Evidence, key: str) -> pd.Series:
    rows = evidence.series(key)
    return rows[rows["count"] >= evidence.length // _EARLY].groupby("run")["value"].first()


def _lose_most(evidence: Evidence) -> pd.Series:
    """Whether a run is in the half that knows least at the end; index `run`."""
    left = evidence.last(KNOWN) / evidence.first(KNOWN)
    return left <= left.median()


def areas(evidence: Evidence) -> pd.Series:
    """Area under the ROC curve of every signal for the half of the runs that loses most facts.

    Empty if all lose the same.
    """
    lost = _lose_most(evidence)
    if lost.nunique() < 2:
        return pd.Series(dtype=float)
    found = {}
    for name, values in _signals(evidence).items():
        usable = values.reindex(lost.index).dropna()
        if lost[usable.index].nunique() == 2:
            found[name] = float(roc_auc_score(lost[usable.index], usable))
    return pd.Series(found, dtype=float)


def _alarm_table(evidence: Evidence) -> pd.DataFrame:
    """One row per signature: where it fires, its place among the alarms of a run, its lead, false alarms."""
    fired, lost = _fired(evidence), losses(evidence)
    places = fired.rank(axis=1)
    rows = []
    for name in fired.columns[fired.notna().any()]:
        at, fails = fired[name], lost.notna()
        lead = (lost - at).dropna()
        rows.append(
            {
                "alarm": name,
                "fires in runs that lose facts": f"{(at.notna() & fails).sum()} of {fails.sum()}",
                "in runs that lose none": f"{(at.notna() & ~fails).sum()} of {(~fails).sum()}",
                "place among the alarms": places[name].mean(),
                "median edits before the loss": lead.median(),
                "least": lead.min(),
            }
        )
    return pd.DataFrame(rows)


def _area_table(evidence: Evidence) -> pd.DataFrame:
    """One row per early number: the area under its ROC curve."""
    numbers, lost = areas(evidence), _lose_most(evidence)
    table = numbers.rename_axis("number at an eighth of the edits").reset_index(
        name="area under the ROC curve"
    )
    return (
        table.assign(**{"runs that lose most": int(lost.sum()), "runs": len(lost)}) if len(table) else table
    )


def _area_of(name: str, evidence: Evidence) -> pd.DataFrame:
    numbers = areas(evidence)
    return (
        pd.DataFrame({"case": ["all runs"], "value": [numbers[name]]}) if name in numbers else pd.DataFrame()
    )


STUDIES = (
    Study(
        name="alarms",
        question="Which failure signature fires first, how long before never-edited facts are lost, and "
        "which number of an early moment tells the runs that will lose most? Thresholds are the papers'; "
        "in the built-in models one edit changes a small matrix a lot.",
        claims=(
            rises(
                "Norms, activations or probes warn before facts are lost.",
                "edits from the first of these alarms to the loss of a tenth of the known facts, of runs "
                "that have both",
                _leads,
                source=f"{NORM_GROWTH}, abstract",
                reported="growth first, then loss of performance",
            ),
            Claim(
                statement="An early norm tells which runs will lose most facts.",
                quantity="area under the ROC curve of the norm ratio at an eighth of the edits, for the "
                "half of the runs that knows least at the end; 0.5 is chance",
                measure=lambda evidence: _area_of("norm ratio", evidence),
                side="above",
                threshold=0.75,
                smallest_effect=0.01,
            ),
            Claim(
                statement="An early functional drift tells which runs will lose most facts.",
                quantity="the same of the functional drift",
                measure=lambda evidence: _area_of("functional drift", evidence),
                side="above",
                threshold=0.75,
                smallest_effect=0.01,
            ),
        ),
        figures=("norms", "known", "probes"),
        tables=(
            Table(
                title="Alarms, in the order of their names; a negative lead is too late", build=_alarm_table
            ),
            Table(
                title="What an early number tells about which half of the runs loses most", build=_area_table
            ),
        ),
    ),
)

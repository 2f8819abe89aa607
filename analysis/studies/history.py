"""When sequences collapse, by batch size, with and without the history of earlier edits."""

from collections.abc import Sequence

import pandas as pd

from analysis.claims import Claim
from analysis.evidence import Evidence
from analysis.studies.study import DOWNSTREAM, EDITED, KNOWN, SCORE, SUCCESS, Study, Table

_COLLAPSED = 0.6
"""Share of never-edited facts below which a model counts as collapsed.

arXiv 2602.02543 has it of the edit score, which does not fall so far here.
"""

_FAR = 3.0
"""Four times as many edits."""


def _collapse(evidence: Evidence) -> pd.Series:
    """Edits at which the share of known facts is first measured below 0.6, none where it never is; by run."""
    rows = evidence.series(KNOWN)
    lost = rows[~(rows["value"] >= _COLLAPSED)].groupby("run")["count"].min()
    return lost.reindex(evidence.runs.index)


def _at_least(evidence: Evidence) -> pd.Series:
    """The same, the length of the run where it never collapsed: at the earliest there."""
    return _collapse(evidence).fillna(evidence.runs["edits"])


def _told(evidence: Evidence, later: pd.Series, by: Sequence[str], threshold: float) -> pd.DataFrame:
    """Cases of a comparison, without pairs that tell nothing.

    Where the longer-lived run never collapsed, the value is the least that it can be: it counts where that is
    above the threshold. A single batch is no sequence.
    """
    open_ended = _collapse(evidence)[later.index].isna() & (later <= threshold)
    size = evidence.setting("batch_size").astype(float)
    single = (size >= evidence.runs["edits"])[later.index]
    return evidence.labelled(later[~(open_ended | single)], by)


def _later(evidence: Evidence) -> pd.DataFrame:
    """Edits before collapse with history over those without, minus 1."""
    later = evidence.effect(_at_least(evidence), "history", relative=True)
    return _told(evidence, later, ("model", "batch_size"), 0.0)


def _sequence_against_batch(evidence: Evidence) -> pd.DataFrame:
    """|known facts after the sequence with history − after one batch| of the same facts."""
    size = evidence.setting("batch_size").astype(float)
    whole = size >= evidence.runs["edits"]
    history, place = evidence.chosen("history"), ["model", "seed"]
    runs = evidence.runs.assign(value=evidence.last(KNOWN)).dropna(subset="value")
    batch = runs[(whole & ~history)[runs.index]].groupby(place)["value"].mean()
    sequence = runs[(~whole & history)[runs.index]]
    other = batch.reindex(pd.MultiIndex.from_frame(sequence[place])).to_numpy()
    return evidence.labelled((sequence["value"] - other).abs(), ("model", "batch_size"))


def _larger_batches_last(evidence: Evidence) -> pd.DataFrame:
    """Edits before collapse in batches of 100 over those one by one, minus 1, without history."""
    size = evidence.setting("batch_size")
    factor = size.map({"100": True, "1": False})[~evidence.chosen("history")]
    within = ("seed", "model", "data", "editor")
    later = evidence.contrast(_at_least(evidence), factor, within=within, relative=True)
    # a batch cannot be seen to collapse before it is over
    later = later[~(_collapse(evidence)[later.index] <= 100)]
    return _told(evidence, later, ("model",), _FAR)


def _batches(evidence: Evidence) -> pd.DataFrame:
    size = evidence.setting("batch_size").astype(int).rename("batch")
    history = evidence.chosen("history").map({True: "history", False: "none"}).rename("regularizer")
    numbers = {
        "edits until 60 % known": _collapse(evidence),
        "score": evidence.last(SCORE),
        "ES": evidence.last(SUCCESS),
        "norm ratio": evidence.last(EDITED),
        "never edited": evidence.last(KNOWN),
        "downstream": evidence.last(DOWNSTREAM),
    }
    return evidence.averages(numbers, [evidence.runs["model"], size, history])


STUDIES = (
    Study(
        name="history",
        question="When does a sequence by MEMIT collapse, by the size of its batches, with and without the "
        "history of earlier edits?",
        claims=(
            Claim(
                says="With the history term a sequence ends as one batch of all facts does.",
                source="arXiv 2605.26670",
                told="equal",
                quantity="|share of never-edited facts known after the sequence with history − after one "
                "batch|",
                measure=_sequence_against_batch,
                side="below",
                threshold=0.05,
            ),
            Claim(
                says="The history term puts the collapse off.",
                source="arXiv 2605.26670",
                told="AlphaEdit without history: all of GLUE at 0 within 2,000 edits",
                quantity="edits until fewer than 60 % of never-edited facts are known, with history over "
                "without, minus 1",
                measure=_later,
                side="above",
                threshold=0.0,
            ),
            Claim(
                says="Batches of 100 collapse far later than single edits.",
                source="arXiv 2602.02543 and 2601.11042",
                told="about 400 edits one by one, 3,000 in batches of 100 (two papers, two measures)",
                quantity="edits until fewer than 60 % of never-edited facts are known, in batches of "
                "100 over one by one, minus 1, without history",
                measure=_larger_batches_last,
                side="above",
                threshold=_FAR,
            ),
        ),
        figures=("scores", "norms", "known"),
        series=("batch_size", "regularizers"),
        tables=(Table(title="Collapse by batch size", build=_batches),),
    ),
)

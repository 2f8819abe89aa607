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


def _collapse(evidence: Evidence) -> pd.Series:
    """Edits at which the share of known facts is first measured below 0.6, none where it never is; by run."""
    rows = evidence.series(KNOWN)
    lost = rows[~(rows["value"] >= _COLLAPSED)].groupby("run")["count"].min()
    return lost.reindex(evidence.runs.index)


def _at_least(evidence: Evidence) -> pd.Series:
    """The same, the length of the run where it never collapsed: at the earliest there."""
    return _collapse(evidence).fillna(evidence.runs["edits"])


def _told(evidence: Evidence, later: pd.Series, by: Sequence[str]) -> pd.DataFrame:
    """Cases of a comparison, without pairs of which neither run collapsed: they tell nothing."""
    never = _collapse(evidence)[later.index].isna()
    return evidence.labelled(later[~(never & (later == 0))], by)


def _later(evidence: Evidence) -> pd.DataFrame:
    """Edits before collapse with history over those without, minus 1."""
    later = evidence.effect(_at_least(evidence), "history", relative=True)
    return _told(evidence, later, ("batch_size",))


def _sequence_against_batch(evidence: Evidence) -> pd.DataFrame:
    """|score of the sequence with history − score of one batch| of the same facts."""
    size = evidence.setting("batch_size").astype(float)
    whole = size >= evidence.runs["edits"]
    last = evidence.last(SCORE)
    batch = last[whole[last.index] & ~evidence.chosen("history")[last.index]]
    by_seed = batch.groupby(evidence.runs["seed"]).mean()
    sequence = last[~whole[last.index] & evidence.chosen("history")[last.index]]
    other = evidence.runs["seed"].reindex(sequence.index).map(by_seed)
    return evidence.labelled((sequence - other).abs(), ("batch_size",))


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
    return pd.DataFrame(numbers).groupby([size, history]).mean().reset_index()


def _smaller_batches_first(evidence: Evidence) -> pd.DataFrame:
    """Edits before collapse in batches of 100 over those one by one, minus 1, without history."""
    size = evidence.setting("batch_size")
    factor = size.map({"100": True, "1": False})[~evidence.chosen("history")]
    within = ("seed", "model", "editor")
    later = evidence.contrast(_at_least(evidence), factor, within=within, relative=True)
    return _told(evidence, later, ("editor",))


STUDIES = (
    Study(
        name="history",
        question="When does a sequence collapse, by the size of its batches, with and without the history of "
        "earlier edits?",
        claims=(
            Claim(
                says="With the history term a sequence ends as one batch of all facts does.",
                source="arXiv 2605.26670",
                told="equal",
                quantity="|edit score of the sequence with history − that of one batch|",
                measure=_sequence_against_batch,
                side="below",
                threshold=0.05,
            ),
            Claim(
                says="The history term puts the collapse off.",
                source="arXiv 2605.26670",
                told="no collapse in 2,000 edits",
                quantity="edits until fewer than 60 % of never-edited facts are known, with history over "
                "without, minus 1",
                measure=_later,
                side="above",
                threshold=0.0,
            ),
            Claim(
                says="Batches of 100 collapse far later than single edits.",
                source="arXiv 2602.02543 and 2601.11042",
                told="about ten times as many edits",
                quantity="edits until fewer than 60 % of never-edited facts are known, in batches of "
                "100 over one by one, minus 1, without history",
                measure=_smaller_batches_first,
                side="above",
                threshold=0.0,
            ),
        ),
        figures=("scores", "norms", "known"),
        tables=(Table(title="Collapse by batch size", build=_batches),),
    ),
)

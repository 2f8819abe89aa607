"""Study of when sequences collapse, by batch size, with and without the history of earlier edits."""

from collections.abc import Sequence

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.study import DOWNSTREAM, EDITED, KNOWN, SCORE, SUCCESS, Study, Table, falls
from analysis.claims.verdicts import Claim

_COLLAPSED = 0.6
"""Share of never-edited facts below which a model counts as collapsed.

arXiv 2602.02543 applies it to the edit score, which does not fall that far here.
"""
_FAR = 3.0
"""Four times as many edits."""
_SEQUENCE = 5
"""Fewest batches of a sequence; with fewer, the time of collapse cannot be resolved."""


def _collapse(evidence: Evidence) -> pd.Series:
    """Edits at which the share of known facts is first measured below 0.6; NaN if it never is; by run."""
    rows = evidence.series(KNOWN)
    lost = rows[~(rows["value"] >= _COLLAPSED)].groupby("run")["count"].min()
    return lost.reindex(evidence.runs.index)


def _earliest_collapse(evidence: Evidence) -> pd.Series:
    """`_collapse`, or the length of the run if it never collapsed: a lower bound."""
    return _collapse(evidence).fillna(evidence.runs["edits"])


def _decided(evidence: Evidence, later: pd.Series, by: Sequence[str], threshold: float) -> pd.DataFrame:
    """Cases of a comparison, without pairs that decide nothing.

    If the longer-lived run never collapsed, the value is a lower bound, which counts only above the
    threshold. A single batch is no sequence.
    """
    open_ended = _collapse(evidence)[later.index].isna() & (later <= threshold)
    size = evidence.setting("batch_size").astype(float)
    single = (size >= evidence.runs["edits"])[later.index]
    return evidence.repeats(later[~(open_ended | single)], by)


def _later(evidence: Evidence) -> pd.DataFrame:
    """Edits before collapse with history over those without, minus 1, of sequences of several batches."""
    later = evidence.effect(_earliest_collapse(evidence), "history", relative=True)
    size = evidence.setting("batch_size").astype(float)
    is_sequence = (size * _SEQUENCE <= evidence.runs["edits"])[later.index]
    return _decided(evidence, later[is_sequence], ("model", "batch_size"), 0.0)


def _from_batch(evidence: Evidence) -> pd.Series:
    """|‖W‖ after a sequence / ‖W‖ after one batch of the same facts without history − 1|, by run."""
    size = evidence.setting("batch_size").astype(float)
    is_one_batch = size >= evidence.runs["edits"]
    place = ["model", "seed"]
    runs = evidence.runs.assign(value=evidence.last(EDITED)).dropna(subset="value")
    batch = runs[(is_one_batch & ~evidence.uses("history"))[runs.index]].groupby(place)["value"].mean()
    sequence = runs[~is_one_batch[runs.index]]
    other = batch.reindex(pd.MultiIndex.from_frame(sequence[place])).to_numpy()
    return (sequence["value"] / other - 1).abs()


def _sequence_against_batch(evidence: Evidence) -> pd.DataFrame:
    """`_from_batch` of the sequences with history."""
    distance = _from_batch(evidence)
    return evidence.repeats(distance[evidence.uses("history")[distance.index]], ("model", "batch_size"))


def _nearer_to_batch(evidence: Evidence) -> pd.DataFrame:
    """`_from_batch` with history minus that without, of the same sequence and seed."""
    distance, history = _from_batch(evidence), evidence.uses("history")
    differences = evidence.contrast(distance, history, within=("model", "batch_size", "seed"))
    return evidence.repeats(differences, ("model", "batch_size"))


def _larger_batches_last(evidence: Evidence) -> pd.DataFrame:
    """Edits before collapse in batches of 100 over those one by one, minus 1, without history."""
    size = evidence.setting("batch_size")
    factor = size.map({"100": True, "1": False})[~evidence.uses("history")]
    within = ("seed", "model", "data", "editor")
    lasted = _earliest_collapse(evidence)
    later = evidence.contrast(lasted, factor, within=within, relative=True)
    # a run too short to last so much longer decides nothing, and a collapse within a batch is not seen
    longest = evidence.runs["edits"] * (later + 1) / lasted - 1
    later = later[(longest[later.index] > _FAR) & ~(_collapse(evidence)[later.index] <= 100)]
    return _decided(evidence, later, ("model",), _FAR)


def _batches(evidence: Evidence) -> pd.DataFrame:
    size = evidence.setting("batch_size").astype(int).rename("batch")
    history = evidence.uses("history").map({True: "history", False: "none"}).rename("regularizer")
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
                statement="With the history term a sequence ends at the norm of one batch of all facts.",
                source="arXiv 2605.26670",
                reported="equal updates",
                quantity="|‖W‖ after the sequence with history / ‖W‖ after one batch − 1|",
                measure=_sequence_against_batch,
                side="below",
                threshold=0.05,
            ),
            falls(
                "With the history term a sequence ends nearer to the norm of one batch than without.",
                "|‖W‖ after the sequence / ‖W‖ after one batch − 1|, with history minus without",
                _nearer_to_batch,
                source="arXiv 2605.26670",
                reported="equal with it, apart without",
            ),
            Claim(
                statement="The history term puts the collapse off.",
                source="arXiv 2605.26670",
                reported="AlphaEdit without history: all of GLUE at 0 within 2,000 edits",
                quantity="edits by MEMIT until fewer than 60 % of never-edited facts are known, with history "
                "over without, minus 1; of sequences of five batches and more",
                measure=_later,
                side="above",
            ),
            Claim(
                statement="Batches of 100 collapse far later than single edits.",
                source="arXiv 2602.02543 and 2601.11042",
                reported="about 400 edits one by one, 3,000 in batches of 100 (two papers, two measures)",
                quantity="edits until fewer than 60 % of never-edited facts are known, in batches of "
                "100 over one by one, minus 1, without history; of sequences that are four times as long as "
                "the single edits lasted",
                measure=_larger_batches_last,
                side="above",
                threshold=_FAR,
            ),
        ),
        figures=("scores", "norms", "known"),
        series=("batch_size", "regularizers"),
        facets=("batch_size",),
        tables=(Table(title="Collapse by batch size", build=_batches),),
    ),
)

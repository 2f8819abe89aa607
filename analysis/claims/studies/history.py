"""When sequences collapse, by batch size, with and without the history of earlier edits."""

from collections.abc import Sequence

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.study import DOWNSTREAM, EDITED, KNOWN, NOTICEABLE, SCORE, SUCCESS, Study, Table
from analysis.claims.verdicts import Claim

_COLLAPSED = 0.6
"""Share of never-edited facts below which a model counts as collapsed.

arXiv 2602.02543 has it of the edit score, which does not fall so far here.
"""

_FAR = 3.0
"""Four times as many edits."""
_SEQUENCE = 5
"""Batches that a sequence has at the least; fewer cannot tell when it collapsed."""


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
    """Edits before collapse with history over those without, minus 1, of sequences of several batches."""
    later = evidence.effect(_at_least(evidence), "history", relative=True)
    size = evidence.setting("batch_size").astype(float)
    several = (size * _SEQUENCE <= evidence.runs["edits"])[later.index]
    return _told(evidence, later[several], ("model", "batch_size"), 0.0)


def _from_batch(evidence: Evidence) -> pd.Series:
    """|‖W‖ after a sequence over that after one batch of the same facts without history, minus 1|, by run."""
    size = evidence.setting("batch_size").astype(float)
    whole = size >= evidence.runs["edits"]
    place = ["model", "seed"]
    runs = evidence.runs.assign(value=evidence.last(EDITED)).dropna(subset="value")
    batch = runs[(whole & ~evidence.chosen("history"))[runs.index]].groupby(place)["value"].mean()
    sequence = runs[~whole[runs.index]]
    other = batch.reindex(pd.MultiIndex.from_frame(sequence[place])).to_numpy()
    return (sequence["value"] / other - 1).abs()


def _sequence_against_batch(evidence: Evidence) -> pd.DataFrame:
    """`_from_batch` of sequences with history."""
    distance = _from_batch(evidence)
    return evidence.labelled(distance[evidence.chosen("history")[distance.index]], ("model", "batch_size"))


def _nearer_to_batch(evidence: Evidence) -> pd.DataFrame:
    """Distance of `_from_batch` with history minus that without, of the same sequence and seed."""
    distance, history = _from_batch(evidence), evidence.chosen("history")
    found = evidence.contrast(distance, history, within=("model", "batch_size", "seed"))
    return evidence.labelled(found, ("model", "batch_size"))


def _larger_batches_last(evidence: Evidence) -> pd.DataFrame:
    """Edits before collapse in batches of 100 over those one by one, minus 1, without history."""
    size = evidence.setting("batch_size")
    factor = size.map({"100": True, "1": False})[~evidence.chosen("history")]
    within = ("seed", "model", "data", "editor")
    lasted = _at_least(evidence)
    later = evidence.contrast(lasted, factor, within=within, relative=True)
    # a run that is too short to last so much longer tells nothing, and a batch is not seen to collapse within
    longest = evidence.runs["edits"] * (later + 1) / lasted - 1
    later = later[(longest[later.index] > _FAR) & ~(_collapse(evidence)[later.index] <= 100)]
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
                says="With the history term a sequence ends at the norm of one batch of all facts.",
                source="arXiv 2605.26670",
                told="equal updates",
                quantity="|‖W‖ after the sequence with history / ‖W‖ after one batch − 1|",
                measure=_sequence_against_batch,
                side="below",
                threshold=0.05,
            ),
            Claim(
                says="With the history term a sequence ends nearer to the norm of one batch than without.",
                source="arXiv 2605.26670",
                told="equal with it, apart without",
                quantity="|‖W‖ after the sequence / ‖W‖ after one batch − 1|, with history minus without",
                measure=_nearer_to_batch,
                side="below",
                threshold=0.0,
                least=NOTICEABLE,
            ),
            Claim(
                says="The history term puts the collapse off.",
                source="arXiv 2605.26670",
                told="AlphaEdit without history: all of GLUE at 0 within 2,000 edits",
                quantity="edits by MEMIT until fewer than 60 % of never-edited facts are known, with history "
                "over without, minus 1; of sequences of five batches and more",
                measure=_later,
                side="above",
                threshold=0.0,
            ),
            Claim(
                says="Batches of 100 collapse far later than single edits.",
                source="arXiv 2602.02543 and 2601.11042",
                told="about 400 edits one by one, 3,000 in batches of 100 (two papers, two measures)",
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
        lines=4,
        tables=(Table(title="Collapse by batch size", build=_batches),),
    ),
)

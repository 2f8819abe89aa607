"""Thousands of edits of a real language model: what the papers' claims say, with their numbers as thresholds.

The claims were fixed before the first run. Abilities are judged by the change of the answer to every document
(`analysis/statistics/hierarchical.py`): seeds are drawn, then documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, Measure
from analysis.claims.studies.activations import late_halves, probes_fail, share_of_edited
from analysis.claims.studies.damage import law
from analysis.claims.studies.growth import LEAST_GROWTH, every_update, laws_by
from analysis.claims.study import (
    DOWNSTREAM,
    EDITED,
    ENCORE,
    KNOWN_ASKED,
    LATE,
    NORM_GROWTH,
    PROBE,
    SCORE,
    SOURCE_EDITS,
    SUCCESS,
    Study,
    Table,
    falls,
    rises,
)
from analysis.claims.verdicts import Claim
from analysis.statistics.hierarchical import paired_bootstrap

CASE = ("editor", "batch_size", "regularizers")
KNOWN_TASK = ("known_facts",)
TEXT_TASKS = ("next_word", "repeated_word")
_LOST = -0.1
"""Change of the share of right answers from which an ability counts as lost."""
_STEPS = "edit/optimiser_steps/mean"


def answer_changes(evidence: Evidence, tasks: Sequence[str]) -> Mapping[str, np.ndarray]:
    """Right at the end minus right on the unedited model, of every document of the tasks, by run."""
    answers = evidence.table("answers")
    if answers.empty:
        return {}
    chosen = answers[answers["task"].isin(tasks)].astype({"right": float})
    changes: dict[str, np.ndarray] = {}
    for run, rows in chosen.groupby("run"):
        wide = rows.pivot(index=["task", "document"], columns=["part", "count"], values="right").sort_index()
        changes[str(run)] = (wide.iloc[:, -1] - wide.iloc[:, 0]).to_numpy()
    return changes


def _intervals(evidence: Evidence, changes: Mapping[str, np.ndarray], by: Sequence[str]) -> pd.DataFrame:
    """A table of a measure with intervals from the changes of every item, in cases by columns or settings."""
    cases = evidence.cases(by)
    rows = []
    for case in dict.fromkeys(cases[list(changes)]):
        of_case = [values for run, values in changes.items() if cases[run] == case]
        mean, low, high = paired_bootstrap(of_case)
        rows.append({"case": case, "value": mean, "low": low, "high": high, "seeds": len(of_case)})
    return pd.DataFrame(rows)


def _forgets(statement: str, quantity: str, tasks: Sequence[str]) -> Claim:
    """The claim that answers to tasks are lost, with intervals over seeds and documents."""
    claim = falls(
        statement,
        quantity,
        lambda evidence: _intervals(evidence, answer_changes(evidence, tasks), CASE),
        threshold=_LOST,
        source=f"{NORM_GROWTH}, abstract",
        reported="performance degrades",
    )
    return replace(claim, source_length=SOURCE_EDITS)


def _is_encore(evidence: Evidence) -> pd.Series:
    """True for ENCORE, false for plain MEMIT, missing for other runs; index `run`."""
    names = evidence.runs["editor"].where(evidence.runs["regularizers"].eq("") | _named(evidence, "encore"))
    return names.map({"encore": True, "memit": False})


def _named(evidence: Evidence, editor: str) -> pd.Series:
    return evidence.runs["editor"] == editor


def _against_memit(key: str, *, relative: bool = False) -> Measure:
    """A number of ENCORE at the end minus that of MEMIT with the same facts, relative to it if so."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        values = evidence.mean(key) if key == _STEPS else evidence.last(key)
        within = ("seed", "batch_size", "edits")
        change = evidence.contrast(values, _is_encore(evidence), within=within, relative=relative)
        return evidence.repeats(change, ("batch_size",))

    return measure


def _kept_beside_memit(evidence: Evidence) -> pd.DataFrame:
    """Change of the share of known facts under ENCORE minus that under MEMIT, paired by fact and seed."""
    changes, is_encore = answer_changes(evidence, KNOWN_TASK), _is_encore(evidence)
    places = evidence.cases(("seed", "batch_size"))
    with_encore, plain = (set(is_encore.index[is_encore.eq(each)]) for each in (True, False))
    of_memit = {places[run]: each for run, each in changes.items() if run in plain}
    paired = {
        run: each - of_memit[places[run]]
        for run, each in changes.items()
        if run in with_encore and places[run] in of_memit
    }
    return _intervals(evidence, paired, ("batch_size",)) if paired else pd.DataFrame()


def _at_the_end(evidence: Evidence) -> pd.DataFrame:
    """One row per editor: means over seeds."""
    numbers = {
        "edits": evidence.runs["edits"].astype(float),
        "‖W‖ / ‖W₀‖": evidence.last(EDITED),
        "functional drift": evidence.last(law.FUNCTIONAL),
        "loss on text": evidence.change(law.LOSS),
        "known facts": evidence.last(KNOWN_ASKED),
        "downstream": evidence.last(DOWNSTREAM),
        "late activations": evidence.last(LATE),
        "probes": evidence.last(PROBE),
        "ES": evidence.last(SUCCESS),
        "score": evidence.last(SCORE),
        "steps a fact": evidence.mean(_STEPS),
    }
    return evidence.averages(numbers, [evidence.cases(CASE).rename("editor")])


STUDIES = (
    Study(
        name="collapse",
        question="Do thousands of edits break a real language model, and what tells it: the norm, or what "
        "the drift does? CounterFact is written into SmolLM2-135M in batches. The claims, their thresholds "
        "and the smallest effects that count were fixed before the first run.",
        claims=(
            Claim(
                statement="The norm of the edited matrices grows two- to threefold.",
                source=f"{NORM_GROWTH}, figure 3",
                reported="2–3 times after 2,000 edits, all others as they were",
                quantity="‖W‖ / ‖W₀‖ of the edited matrices, stacked, at the end; the mean is geometric",
                measure=lambda evidence: evidence.repeats(evidence.last(EDITED), CASE),
                side="above",
                threshold=2.0,
                source_value=2.5,
                null=1.0,
                source_length=SOURCE_EDITS,
                ratio=True,
                smallest_effect=LEAST_GROWTH,
            ),
            every_update(CASE),
            replace(
                rises(
                    "The edited blocks take a growing share of the residual stream.",
                    "share of the edited blocks' MLP outputs among all contributions, at the end minus at "
                    "the start",
                    lambda evidence: evidence.repeats(share_of_edited(evidence), CASE),
                    source=f"{ENCORE}, figure 5",
                    reported="grows",
                ),
                source_length=SOURCE_EDITS,
            ),
            late_halves(CASE),
            probes_fail(CASE),
            _forgets(
                "Facts that nobody edited are forgotten.",
                "share of known facts answered, at the end minus at the start",
                KNOWN_TASK,
            ),
            _forgets(
                "Abilities that have nothing to do with the facts are lost.",
                "share of right words in running text, at the end minus at the start",
                TEXT_TASKS,
            ),
            Claim(
                statement="ENCORE saves as much of the optimiser's steps as the source saves of the time.",
                source=f"{ENCORE}, table 1",
                reported="at least 39 %",
                quantity="optimiser steps of a fact under ENCORE over those under MEMIT, minus 1",
                measure=_against_memit(_STEPS, relative=True),
                side="below",
                threshold=-0.39,
                source_value=-0.39,
                null=0.0,
                smallest_effect=0.01,
            ),
            rises(
                "ENCORE raises the score of all edits.",
                "edit score of ENCORE minus that of MEMIT, at the end",
                _against_memit(SCORE),
                source=f"{ENCORE}, table 2",
                reported="MEMIT 67.9 → 73.9 by early stopping, 74.9 by the constraint (Llama2-7B)",
            ),
            replace(
                falls(
                    "ENCORE holds norms down.",
                    "‖W‖ / ‖W₀‖ of ENCORE minus that of MEMIT, at the end",
                    _against_memit(EDITED),
                    source=f"{ENCORE}, figure 7 (its caption; no value known)",
                    reported="norms are held down",
                ),
                smallest_effect=LEAST_GROWTH,
            ),
            rises(
                "ENCORE keeps more of what the model knows.",
                "change of the share of known facts under ENCORE minus that under MEMIT",
                _kept_beside_memit,
                source=f"{ENCORE}, figure 6 (its caption; no value known)",
                reported="drawn beside the other three",
            ),
        ),
        figures=("norms", "downstream", "activations", "probes", "scores"),
        protocol=f"{NORM_GROWTH}: 2,000 edits one by one; {ENCORE}: 10,000 edits in batches of 100; both "
        f"of CounterFact, on models of 1.5 to 8 thousand million weights.",
        threats=(
            "A model of 135 million weights, quantised to five bits where it comes from the package.",
            "Values of the editors were searched with 50 facts in one batch, five trials each; a sequence of "
            "batches of 20 may prefer others.",
            "Each editor has the blocks and values of its own search: a difference between ENCORE and MEMIT "
            "is that of two settings, not of ENCORE's parts.",
            "Some known facts may share an object or a relation with edited ones.",
            "That reach is compared with the other numbers was not fixed before the runs. The measurements "
            "of one run fall nearly on a line for every number, so that few editors are compared; "
            "without UltraEdit's the norm orders the loss of known facts as well.",
            "Facts never edited say little here: the unedited model knows few of them.",
        ),
        series=CASE,
        scale="SmolLM2",
        tables=(Table(title="At the end, by editor", build=_at_the_end), laws_by(CASE), *law.TABLES),
        drawings=law.DRAWINGS,
    ),
)

"""ENCORE's two parts, early stopping and the norm constraint, on three editors."""

import pandas as pd

from analysis.claims.evidence import SEQUENCE, Evidence, effects
from analysis.claims.study import (
    DOWNSTREAM,
    EDITED,
    ENCORE,
    KNOWN,
    NOTICEABLE,
    NOTICEABLE_ALONE,
    SCORE,
    SUCCESS,
    Study,
    Table,
    rises,
)
from analysis.claims.verdicts import Claim

_TIME = "time/targets/seconds"


def _share_saved(evidence: Evidence, values: pd.Series) -> pd.DataFrame:
    """Share of a number that MPES saves, against the run that differs in it alone."""
    changes = evidence.effects(values, "mpes", relative=True)
    return changes.assign(value=-changes["value"])


def _saved(evidence: Evidence) -> pd.DataFrame:
    """Share of the time for targets that MPES saves.

    Only of several seeds: in a single pair of runs the load of the machine could pass for the effect.
    """
    saved = _share_saved(evidence, evidence.sum(_TIME))
    return saved[saved.groupby("case")["value"].transform("size") > 1]


def _steps_saved(evidence: Evidence) -> pd.DataFrame:
    """Share of the optimiser steps for a target that MPES saves: the same number on every machine."""
    return _share_saved(evidence, evidence.mean("edit/optimiser_steps/mean"))


def _with_both(evidence: Evidence) -> pd.DataFrame:
    """Norm ratio of MEMIT with MPES and the norm constraint."""
    last, both = evidence.last(EDITED), evidence.uses("mpes") & evidence.uses("norm_constraint")
    return evidence.repeats(evidence.of_editor(last[both[last.index]], "memit"))


def _both_against_others(evidence: Evidence) -> pd.DataFrame:
    """Downstream accuracy of MEMIT with MPES and the norm constraint minus the best with one or neither."""
    both = evidence.uses("mpes") & evidence.uses("norm_constraint")
    differences = evidence.contrast(evidence.last(DOWNSTREAM), both, within=(*SEQUENCE, "seed"))
    best = differences.groupby(level=0).agg(lambda each: each.min(skipna=False))
    return evidence.repeats(evidence.of_editor(best, "memit"))


def _by_part(evidence: Evidence) -> pd.DataFrame:
    """One row per editor and combination of MPES and norm constraint: means over seeds."""
    numbers = {
        "norm ratio": evidence.last(EDITED),
        "accuracy": evidence.last("edit/accuracy/seen.rewrite"),
        "score": evidence.last(SCORE),
        "ES": evidence.last(SUCCESS),
        "never edited": evidence.last(KNOWN),
        "downstream": evidence.last(DOWNSTREAM),
        "targets, s": evidence.sum(_TIME),
        "Adam steps": evidence.mean("edit/optimiser_steps/mean"),
    }
    by = [evidence.cases(SEQUENCE).rename("sequence"), evidence.runs["regularizers"]]
    return evidence.averages(numbers, by)


STUDIES = (
    Study(
        name="encore",
        question="What do early stopping (MPES, 4 hits) and the norm constraint each contribute, on MEMIT, "
        "EMMET and AlphaEdit, all with the history of earlier edits? The constraint is not tuned: λn = 1 "
        "beside MEMIT's λp = 10, where the source has 10 beside 20,000 (GPT2-XL). EMMET is here MEMIT with a "
        "tenth of the weight of history and constraint. Targets end where their loss falls below 0.05, with "
        "MPES or without: it can save what is left after 4 hits. Cases are named by what stands beside the "
        "part in question; the source's own are those beside history alone. Scores are shares, the source's "
        "are percentages.",
        claims=(
            Claim(
                statement="MPES saves editing time.",
                source=f"{ENCORE}, table 1",
                reported="39–76 % of a whole edit's time, with up to 2 steps after the first hit",
                quantity="share of the seconds for targets saved, of several seeds",
                measure=_saved,
                side="above",
            ),
            Claim(
                statement="MPES saves optimiser steps.",
                source=f"{ENCORE}, section on MPES",
                reported="stops once the target is the first choice",
                quantity="share of the optimiser's steps saved",
                measure=_steps_saved,
                side="above",
            ),
            Claim(
                statement="MPES saves as much of the steps as the source saves of the time.",
                source=f"{ENCORE}, table 1",
                reported="at least 39 %",
                quantity="share of the optimiser's steps saved",
                measure=_steps_saved,
                side="above",
                threshold=0.39,
            ),
            rises(
                "MPES raises the score of all edits.",
                "edit score with MPES minus without",
                effects(SCORE, "mpes"),
                source=f"{ENCORE}, table 2",
                reported="MEMIT 67.9 → 73.9, AlphaEdit 56.7 → 72.9, EMMET 74.3 → 77.4 (Llama2-7B); MEMIT "
                "74.2 → 73.7 (GPT2-XL, table 4)",
            ),
            Claim(
                statement="The norm constraint makes the norm grow less.",
                source=f"{ENCORE}, figure 7 (its caption; no value known)",
                reported="norms are held down",
                quantity="norm ratio with the constraint minus without",
                measure=effects(EDITED, "norm_constraint"),
                side="below",
            ),
            Claim(
                statement="With both, MEMIT's norms stay near the unedited ones.",
                source=f"{ENCORE}, figure 7 (its caption; no value known)",
                reported="drawn beside the unedited norms",
                quantity="‖W‖ / ‖W₀‖ of the edited matrices with MPES and the constraint, at the end",
                measure=_with_both,
                side="below",
                threshold=2.0,
                ratio=True,
            ),
            rises(
                "The norm constraint raises the score of MEMIT.",
                "edit score of MEMIT with the constraint minus without",
                effects(SCORE, "norm_constraint", editor="memit"),
                source=f"{ENCORE}, tables 2, 3 and 4",
                reported="67.9 → 74.9 (Llama2-7B), 74.2 → 74.5 (GPT2-XL, less than counts here)",
            ),
            Claim(
                statement="The norm constraint does not raise the score of EMMET.",
                source=f"{ENCORE}, table 5",
                reported="76.3 → 74.1 (Llama2-7B)",
                quantity="edit score of EMMET with the constraint minus without",
                measure=effects(SCORE, "norm_constraint", editor="emmet"),
                side="below",
                threshold=NOTICEABLE,
                smallest_effect_alone=NOTICEABLE_ALONE,
            ),
            rises(
                "With both, MEMIT keeps more downstream ability than with one or neither.",
                "mean downstream accuracy with both minus the best of those with one or neither",
                _both_against_others,
                source=f"{ENCORE}, figure 6 (its caption; no value known)",
                reported="drawn beside the other three",
            ),
        ),
        protocol=f"{ENCORE}: 10,000 edits of CounterFact in batches of 100 on GPT2-XL, Llama-2-7B and "
        f"Llama-3-8B; λn 10 beside λp 20,000 (GPT2-XL).",
        threats=(
            "The strength of the constraint is not tuned: beside the keys' second moments it is stronger "
            "here than in the source, in most directions of the keys.",
            "Eighty edits on the built-in model.",
        ),
        figures=("norms", "downstream", "scores"),
        series=(*SEQUENCE, "regularizers"),
        facets=SEQUENCE,
        tables=(Table(title="At the end, by editor and regularizers", build=_by_part),),
    ),
)

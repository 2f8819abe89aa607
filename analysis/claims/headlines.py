"""The claims on the first screen of the results: what the papers say in twelve rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.claims.evidence import Evidence
from analysis.claims.registry import STUDIES
from analysis.claims.study import Study
from analysis.claims.verdicts import Claim, Finding, judge
from analysis.statistics.holm import holm

REAL, BUILT_IN = "SmolLM2", "built-in"
"""Columns of the results: a real language model, and tiny models of invented people."""
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A claim in few words, and the claims of experiments that answer it on each kind of model."""

    words: str
    number: str
    """The source's number; a dash if it gives none."""
    answers: Mapping[str, tuple[str, str]]
    """The experiment, and words that occur in its claim alone, by column; none where the claim is another."""
    picture: str = ""
    """Name of a figure of the experiment."""

    def claim(self, column: str) -> tuple[Study, Claim] | None:
        """The experiment and the claim of a column; None if nothing there answers it."""
        if column not in self.answers:
            return None
        name, words = self.answers[column]
        (study,) = (study for study in STUDIES if study.name == name)
        (claim,) = (claim for claim in study.claims if words in claim.statement)
        return study, claim


def _trained(words: str, kind: str) -> Headline:
    answer = ("norms_posttraining", f"grows under {kind}")
    return Headline(
        words=words, number="always", answers={REAL: answer, BUILT_IN: answer}, picture="training"
    )


HEADLINES: tuple[Headline, ...] = (
    _trained("Norms grow under continual pretraining", "continual pretraining"),
    _trained("Norms grow under full fine-tuning", "full fine-tuning"),
    _trained("Norms grow under LoRA", "LoRA"),
    Headline(
        words="Edited matrices grow: two- to threefold (SmolLM2), MEMIT's over tenfold (built-in)",
        number="2–3 times (2,000 edits); MEMIT over 10 times (10,000 edits)",
        answers={
            REAL: ("collapse", "two- to threefold"),
            BUILT_IN: ("norms_by_layer", "MEMIT's matrices grow over tenfold"),
        },
        picture="norms",
    ),
    Headline(
        words="The edited blocks take a growing share of the residual stream",
        number="–",
        answers={
            REAL: ("collapse", "growing share"),
            BUILT_IN: ("activation_norms", "growing share"),
        },
        picture="shares",
    ),
    Headline(
        words="The norms of late activations fall",
        number="to about half (2,000 edits)",
        answers={
            REAL: ("collapse", "fall to about half"),
            BUILT_IN: ("activation_norms", "fall to about half"),
        },
        picture="activations",
    ),
    Headline(
        words="Activations move to other regions: probes fail",
        number="below 70 % (2,000 edits)",
        answers={
            REAL: ("collapse", "probes trained"),
            BUILT_IN: ("subspace_shift", "probes trained on the un"),
        },
        picture="probes",
    ),
    Headline(
        words="What the model knew is lost",
        number="–",
        answers={
            REAL: ("collapse", "Facts that nobody edited"),
            BUILT_IN: ("cross_architecture", "Never-edited facts are lost"),
        },
        picture="downstream",
    ),
    Headline(
        words="Early stopping (MPES) saves time",
        number="at least 39 %",
        answers={BUILT_IN: ("encore", "MPES saves as much")},
    ),
    Headline(
        words="Early stopping (MPES) raises the edit score",
        number="67.9 → 73.9 % (MEMIT, Llama2-7B)",
        answers={BUILT_IN: ("encore", "MPES raises")},
        picture="scores",
    ),
    Headline(
        words="The norm constraint holds norms down",
        number="–",
        answers={BUILT_IN: ("encore", "norm constraint makes")},
        picture="norms",
    ),
    Headline(
        words="ENCORE keeps more than MEMIT: of known facts (SmolLM2), of downstream accuracy (built-in)",
        number="–",
        answers={REAL: ("collapse", "keeps more"), BUILT_IN: ("encore", "keeps more downstream")},
        picture="downstream",
    ),
)


def findings(column: str, evidence: Mapping[str, Evidence]) -> Sequence[Finding | None]:
    """The findings of a column by headline, corrected for their number (Holm); None where nothing was run.

    `evidence` is that of the column, by experiment. A confirmed claim that is not significant among those of
    the column is `partly` so.
    """
    found: list[Finding | None] = []
    for headline in HEADLINES:
        study, claim = headline.claim(column) or (None, None)
        found.append(
            judge(claim, evidence[study.name]) if study and claim and study.name in evidence else None
        )
    adjusted = holm(np.array([np.nan if one is None else one.p for one in found]))
    return [
        replace(one, verdict="partly") if one and one.verdict == "confirmed" and p >= SIGNIFICANT else one
        for one, p in zip(found, adjusted, strict=True)
    ]

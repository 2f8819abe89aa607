"""Fluency: does the model still write varied text, or does it repeat itself?

Collapsing models repeat a few words. The published measure (GE of Meng et al. 2022, arXiv 2202.05262, from
Zhang et al. 2018) is the entropy of the word n-grams of a generated text, with H_n = −Σ f log₂ f over the
frequencies f of its n-grams:

    ½ (⅔ H₂ + ⁴⁄₃ H₃)  bits

A text of 100 different words has about 6.6 bits, one that repeats a single word has 0. The text includes its
prompt, as published, and the end-of-text token does not stop it. Deviations: one sample for each of a fixed
set of prompts instead of ten prompts per fact, seeded, and words by a regular expression (runs of letters and
digits, and other signs one by one) instead of nltk's tokenizer.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.inference.continuations import TopK, continuations
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from editors.data import Fact
from editors.errors import ConfigError, NumericsError
from editors.models.model import Model

log = logging.getLogger(__name__)

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""By n: kmeng01/memit experiments/py/eval_utils_counterfact.py, `compute_n_gram_entropy`."""


@dataclass(kw_only=True)
class Generation(Stage):
    """Entropy and repetition of seeded top-k samples.

    Keys: `generation/entropy/mean`, bits, averaged over texts; `generation/repetition/mean`, share of
    3-grams that occurred before in their text. At the end the table `generations` holds the texts.
    """

    name: str = "generation"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(1000, 10_000)))
    prompts: int = 10
    """Number of facts, from the first planned one on, whose statements are continued; if none is planned,
    those of untouched facts."""
    texts: Sequence[str] = ()
    """Prompts to continue instead of statements of facts."""
    length: int = 100
    """Tokens of a text, prompt included; at most as many as the model reads."""
    top_k: int = 5
    """Number of likeliest tokens from which each token is sampled."""
    seed: int = 0
    """Seed of the samples."""

    def __post_init__(self) -> None:
        self.check_minimums(prompts=0, length=2, top_k=1)

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Choose the prompts; without planned facts, the first measurement chooses them."""
        self._prompts = list(self.texts) or [fact.statement for fact in planned[: self.prompts]]

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Sample a text for each prompt with the same random numbers every time; NaN if scores are NaN.

        Raises:
            ConfigError: if there is no prompt.
        """
        self._prompts = self._prompts or self._untouched_prompts(observation.untouched)
        try:
            endings = self._sample(model)
        except NumericsError as error:
            log.warning("generation: %s", error)
            return {"generation/entropy/mean": math.nan, "generation/repetition/mean": math.nan}
        texts = [prompt + ending for prompt, ending in zip(self._prompts, endings, strict=True)]
        entropies = [entropy(text) for text in texts]
        result: Measurement = {
            "generation/entropy/mean": float(np.mean(entropies)),
            "generation/repetition/mean": float(np.mean([repetition(text) for text in texts])),
        }
        if observation.is_last:
            columns = {"prompt": self._prompts, "text": texts, "entropy": entropies}
            result["generations"] = pd.DataFrame(columns)
        return result

    def _untouched_prompts(self, facts: Sequence[Fact]) -> list[str]:
        statements = [fact.statement for fact in facts[: self.prompts]]
        if not statements:
            raise ConfigError(
                f"stage.generation has no prompts to continue: no fact is edited, {len(facts)} are untouched "
                f"and prompts={self.prompts}; give stage.generation.texts=[...] or data with facts"
            )
        return statements

    def _sample(self, model: Model) -> list[str]:
        return continuations(
            model,
            self._prompts,
            tokens=self.length,
            counts_prompt=True,
            stops=False,
            sampling=TopK(k=self.top_k, seed=self.seed),
        )


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, and other signs except spaces one by one; case is kept."""
    return re.findall(r"\w+|[^\w\s]", text)


def ngrams(text: str, length: int) -> list[tuple[str, ...]]:
    """All runs of `length` consecutive words."""
    sequence = words(text)
    return list(zip(*(sequence[start:] for start in range(length)), strict=False))


def entropy(text: str) -> float:
    """½ (⅔ H₂ + ⁴⁄₃ H₃) in bits; H_n is 0 for a text of fewer than n words."""
    return sum(weight * _entropy(ngrams(text, n)) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def repetition(text: str) -> float:
    """Share of the 3-grams that occurred before in the text, 0..1; 0 if there is none."""
    trigrams = ngrams(text, 3)
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def _entropy(items: Sequence[tuple[str, ...]]) -> float:
    """−Σ f log₂ f over the frequencies of the items."""
    counts = np.array(list(Counter(items).values()), dtype=float)
    shares = counts / counts.sum() if len(counts) else counts
    # subtracted from 0, so that a single item gives 0 and not −0
    return float(0 - (shares * np.log2(shares)).sum())

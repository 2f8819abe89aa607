"""Fluency: does the model still write varied text, or does it repeat itself?

Collapsing models repeat a few words. The published measure (GE of Meng et al. 2022, arXiv 2202.05262, from
Zhang et al. 2018) is the entropy of the word n-grams of a generated text, with H_n = −Σ f log₂ f over the
frequencies f of its n-grams:

    ½ (⅔ H₂ + ⁴⁄₃ H₃)  bits

The text includes its prompt, as published, and the end-of-text token does not stop it. Deviations: one sample
for each of a fixed set of prompts instead of ten prompts a fact, seeded, and words by a regular expression
(runs of letters and digits, and single other signs) instead of nltk's tokenizer.
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
from analysis.stages.base import Cadence, Measurement, Observation
from editors.data import Fact
from editors.errors import ConfigError, NumericsError
from editors.models.model import Model

log = logging.getLogger(__name__)

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""By n: kmeng01/memit experiments/py/eval_utils_counterfact.py, `compute_n_gram_entropy`."""


@dataclass(kw_only=True)
class Generation:
    """Entropy and repetition of seeded top-k samples.

    Keys: `generation/entropy/mean`, bits, averaged over texts; `generation/repetition/mean`, share of
    3-grams that occurred before in their text. At the end the table `generations` has the texts.
    """

    name: str = "generation"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(1000, 10_000)))
    prompts: int = 10
    """Facts, from the first planned one on, whose statements are continued; untouched ones where none is."""
    texts: Sequence[str] = ()
    """Prompts to continue instead of these."""
    length: int = 100
    """Tokens of a text, prompt included; at most as many as the model reads."""
    top_k: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for key, low in {"prompts": 0, "length": 2, "top_k": 1}.items():
            if getattr(self, key) < low:
                raise ConfigError(f"stage.generation.{key}={getattr(self, key)}, but it is at least {low}")

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Choose the prompts; where no fact is planned, the first measurement does."""
        self._chosen = list(self.texts) or [fact.statement for fact in planned[: self.prompts]]

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Sample a text for each prompt, the same random numbers every time; NaN where scores are NaN.

        Raises:
            ConfigError: where there is no prompt.
        """
        self._chosen = self._chosen or self._untouched(observation.untouched)
        try:
            written = self._written(model)
        except NumericsError as error:
            log.warning("generation: %s", error)
            return {"generation/entropy/mean": math.nan, "generation/repetition/mean": math.nan}
        texts = [prompt + text for prompt, text in zip(self._chosen, written, strict=True)]
        entropies = [entropy(text) for text in texts]
        result: Measurement = {
            "generation/entropy/mean": float(np.mean(entropies)),
            "generation/repetition/mean": float(np.mean([repetition(text) for text in texts])),
        }
        if observation.is_last:
            columns = {"prompt": self._chosen, "text": texts, "entropy": entropies}
            result["generations"] = pd.DataFrame(columns)
        return result

    def _untouched(self, facts: Sequence[Fact]) -> list[str]:
        chosen = [fact.statement for fact in facts[: self.prompts]]
        if not chosen:
            raise ConfigError(
                f"stage.generation has nothing to continue: no fact is edited, {len(facts)} are left "
                f"alone and prompts={self.prompts}; give stage.generation.texts=[...] or data with facts"
            )
        return chosen

    def _written(self, model: Model) -> list[str]:
        return continuations(
            model,
            self._chosen,
            tokens=self.length,
            counts_prompt=True,
            stops=False,
            sampling=TopK(k=self.top_k, seed=self.seed),
        )


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, and every other sign but space on its own; case is kept."""
    return re.findall(r"\w+|[^\w\s]", text)


def ngrams(text: str, length: int) -> list[tuple[str, ...]]:
    """Every `length` words that follow each other."""
    found = words(text)
    return list(zip(*(found[start:] for start in range(length)), strict=False))


def entropy(text: str) -> float:
    """½ (⅔ H₂ + ⁴⁄₃ H₃) in bits; a text too short for an n-gram has none of it."""
    return sum(weight * _entropy(ngrams(text, n)) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def repetition(text: str) -> float:
    """Share of the 3-grams that occurred before in the text, 0..1; 0 where there is none."""
    found = ngrams(text, 3)
    return 1 - len(set(found)) / len(found) if found else 0.0


def _entropy(items: Sequence[tuple[str, ...]]) -> float:
    """−Σ f log₂ f over the frequencies of the items."""
    counts = np.array(list(Counter(items).values()), dtype=float)
    shares = counts / counts.sum() if len(counts) else counts
    # from the negative, so that a single item gives 0 and not −0
    return float(0 - (shares * np.log2(shares)).sum())

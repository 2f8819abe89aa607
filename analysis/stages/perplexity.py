"""Perplexity on held-out text: how well the model still foretells text that no edit is about.

    loss = −1/N Σ log P(token | earlier tokens of its document),   perplexity = exp(loss)

over all N tokens of the documents but the first of each, which nothing comes before. The head runs on part of
the tokens at a time, so that logits of at most `batch_tokens` tokens are held.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from analysis.inference.scoring import HEAD_TOKENS, foretold
from analysis.inference.texts import Batch, Document, TextSet, batches
from analysis.stages.base import Cadence, Measurement, Observation
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model


@dataclass(kw_only=True)
class Perplexity:
    """Loss and perplexity on fixed texts.

    Keys: `text/loss/held_out`, nats a token; `text/perplexity/held_out`. NaN where the model gives
    no numbers.
    """

    texts: TextSet
    """Documents that name no edited subject."""
    name: str = "perplexity"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(1000, 10_000)))
    batch_tokens: int = 2048
    """Of one forward pass, padding included."""

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ConfigError(f"stage.perplexity.batch_tokens={self.batch_tokens}, but it is at least 1")

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Read the texts; raises as `TextSet.read`."""
        self._documents = self.texts.read(model, planned)

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """One pass over the texts."""
        value = loss(model, self._documents, self.batch_tokens)
        with np.errstate(over="ignore"):
            return {"text/loss/held_out": value, "text/perplexity/held_out": float(np.exp(value))}


@torch.inference_mode()
def loss(model: Model, documents: Sequence[Document], batch_tokens: int) -> float:
    """Mean negative log-likelihood of a token, in nats, summed up in float64."""
    total = sum(_batch_loss(model, batch, batch_tokens) for batch in batches(documents, model, batch_tokens))
    return total / sum(len(document) - 1 for document in documents)


def _batch_loss(model: Model, batch: Batch, batch_tokens: int) -> float:
    """Negative log-likelihood of all tokens of a batch that follow another one."""
    follows = batch.mask[:, 1:]
    hidden = model.hidden(batch.ids, batch.mask)[:, :-1][follows]
    wanted = batch.ids[:, 1:][follows]
    said, _ = foretold(model, hidden, wanted, at_once=min(batch_tokens, HEAD_TOKENS))
    return -float(said.double().sum())

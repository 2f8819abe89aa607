"""Perplexity on held-out text: how well the model still predicts text that no edit is about.

The broadest measure of damage: a model whose edits reach into unrelated text assigns its tokens lower
probabilities.

    loss = −1/N Σ log P(token | earlier tokens of its document),   perplexity = exp(loss)

over all N tokens of the documents except the first of each, which has no context. A perplexity of p means
that the model is as uncertain as if it chose among p equally likely tokens; a model that cannot tell any
tokens apart has the size of its vocabulary. The head runs on part of the tokens at a time, so that logits of
at most `batch_tokens` tokens are held.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from analysis.inference.scoring import HEAD_TOKENS, score_tokens
from analysis.inference.texts import Batch, Document, TextSet, batches
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from editors.data import Fact
from editors.models.model import Model


@dataclass(kw_only=True)
class Perplexity(Stage):
    """Loss and perplexity on fixed texts.

    Keys: `text/loss/held_out`, nats per token; `text/perplexity/held_out`. NaN if the model's scores are NaN.
    """

    texts: TextSet
    """Documents that name no edited subject."""
    name: str = "perplexity"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(1000, 10_000)))
    batch_tokens: int = 2048
    """Tokens of one forward pass, padding included."""

    def __post_init__(self) -> None:
        self.check_minimums(batch_tokens=1)

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
    """Mean negative log-likelihood of a token, in nats, summed in float64."""
    total = sum(_batch_loss(model, batch, batch_tokens) for batch in batches(documents, model, batch_tokens))
    return total / sum(len(document) - 1 for document in documents)


def _batch_loss(model: Model, batch: Batch, batch_tokens: int) -> float:
    """Negative log-likelihood of all tokens of a batch that follow another one, summed."""
    has_context = batch.mask[:, 1:]
    hidden = model.hidden(batch.ids, batch.mask)[:, :-1][has_context]
    targets = batch.ids[:, 1:][has_context]
    log_probabilities, _ = score_tokens(model, hidden, targets, at_once=min(batch_tokens, HEAD_TOKENS))
    return -float(log_probabilities.double().sum())

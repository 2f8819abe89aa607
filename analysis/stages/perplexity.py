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
import pandas as pd
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
    losses: bool = False
    """Keep the loss of every document in the table `losses`: part, count, document, tokens after the first
    one, and their mean loss in nats."""

    def __post_init__(self) -> None:
        self.check_minimums(batch_tokens=1)

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Read the texts; raises as `TextSet.read`."""
        self._documents = self.texts.read(model, planned)

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """One pass over the texts."""
        sums = document_losses(model, self._documents, self.batch_tokens)
        tokens = np.array([len(document) - 1 for document in self._documents])
        value = float(sums.sum() / tokens.sum())
        with np.errstate(over="ignore"):
            result: Measurement = {
                "text/loss/held_out": value,
                "text/perplexity/held_out": float(np.exp(value)),
            }
        if self.losses:
            place = {"part": observation.part, "count": observation.count}
            columns = {"document": range(len(tokens)), "tokens": tokens, "loss": sums / tokens}
            result["losses"] = pd.DataFrame(place | columns)
        return result


@torch.inference_mode()
def document_losses(model: Model, documents: Sequence[Document], batch_tokens: int) -> np.ndarray:
    """Negative log-likelihood of every document but its first token, in nats, summed in float64."""
    sums = np.zeros(len(documents))
    for batch in batches(documents, model, batch_tokens):
        sums[list(batch.index)] = _batch_losses(model, batch, batch_tokens)
    return sums


def _batch_losses(model: Model, batch: Batch, batch_tokens: int) -> Sequence[float]:
    """Negative log-likelihood of each document of a batch, summed over its tokens."""
    has_context = batch.mask[:, 1:]
    hidden = model.hidden(batch.ids, batch.mask)[:, :-1][has_context]
    targets = batch.ids[:, 1:][has_context]
    log_probabilities, _ = score_tokens(model, hidden, targets, at_once=min(batch_tokens, HEAD_TOKENS))
    counts = has_context.sum(dim=1).tolist()
    return [-float(each.double().sum()) for each in log_probabilities.split(counts)]

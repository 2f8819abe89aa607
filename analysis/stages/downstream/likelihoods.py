"""Total likelihoods of token sequences after given contexts, planned once and computed for model after model.

The output of a causal model at a token depends on no later token, so a context that begins another one, or is
shared by several choices, is run once. Batches are of sequences of similar length and stay on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.inference.scoring import Query, score_tokens, shared_passes
from analysis.inference.texts import Batch, batches
from editors.models.model import Model


@dataclass(frozen=True)
class _Pass:
    """A batch, and one entry for every target token of every query that is read off it."""

    batch: Batch
    row: Int[Tensor, " token"]
    column: Int[Tensor, " token"]
    target: Int[Tensor, " token"]
    query: Int[Tensor, " token"]


class Likelihoods:
    """The forward passes that answer a list of queries."""

    def __init__(self, queries: Sequence[Query], model: Model, *, batch_tokens: int) -> None:
        self.count = len(queries)
        passes = shared_passes(queries)
        sequences = list(passes)
        self._passes = [
            _plan_pass(batch, [passes[sequences[i]] for i in batch.index], queries)
            for batch in batches(sequences, model, batch_tokens)
        ]

    @torch.inference_mode()
    def compute(self, model: Model) -> tuple[Float[Tensor, " query"], Bool[Tensor, " query"]]:
        """Σ log P(token | context, earlier tokens) in nats, and whether every token is the first choice."""
        total = torch.zeros(self.count, dtype=torch.float64)
        missed = torch.zeros(self.count, dtype=torch.long)
        for each in self._passes:
            hidden = model.hidden(each.batch.ids, each.batch.mask)[each.row, each.column]
            log_probabilities, choices = score_tokens(model, hidden, each.target)
            total.index_add_(0, each.query, log_probabilities.double().cpu())
            missed.index_add_(0, each.query, (choices != each.target).long().cpu())
        return total, missed == 0


def _plan_pass(batch: Batch, indices: Sequence[Sequence[int]], queries: Sequence[Query]) -> _Pass:
    """The position before each target token; `indices` are those of the queries of each row."""
    entries = [
        (row, position, token, index)
        for row, in_row in enumerate(indices)
        for index in in_row
        for position, token in zip(queries[index].positions, queries[index].target, strict=True)
    ]
    row, column, target, query = torch.tensor(entries, dtype=torch.long).unbind(dim=1)
    device = batch.ids.device
    return _Pass(batch, row.to(device), column.to(device), target.to(device), query)

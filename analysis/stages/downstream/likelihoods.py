"""Total likelihoods of token sequences after given contexts, planned once and read again and again.

A causal model says after a token what no later one can change, so a context that begins another one, or is
the same for several choices, is run once. Batches are of sequences of similar length and stay on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.inference.scoring import foretold, hosts
from analysis.inference.texts import Batch, Document, batches
from editors.models.model import Model


@dataclass(frozen=True)
class Query:
    """Token ids of a context and of what may follow it; neither is empty."""

    context: Document
    target: Document

    @property
    def fed(self) -> Document:
        """What the model reads: all but the last token."""
        return (self.context + self.target)[:-1]


@dataclass(frozen=True)
class _Pass:
    """A batch, and what is read off it: a place for every target token of every query that it answers."""

    batch: Batch
    line: Int[Tensor, " token"]
    column: Int[Tensor, " token"]
    wanted: Int[Tensor, " token"]
    query: Int[Tensor, " token"]


class Reading:
    """The passes that answer a list of queries."""

    def __init__(self, queries: Sequence[Query], model: Model, *, batch_tokens: int) -> None:
        self.count = len(queries)
        host = hosts([query.fed for query in queries])
        guests: dict[Document, list[int]] = {}
        for index, query in enumerate(queries):
            guests.setdefault(host[query.fed], []).append(index)
        distinct = list(guests)
        self._passes = [
            _places(batch, [guests[distinct[i]] for i in batch.index], queries)
            for batch in batches(distinct, model, batch_tokens)
        ]

    @torch.inference_mode()
    def answer(self, model: Model) -> tuple[Float[Tensor, " query"], Bool[Tensor, " query"]]:
        """Σ log P(token | context, earlier tokens) in nats, and whether every token is the first choice."""
        total = torch.zeros(self.count, dtype=torch.float64)
        missed = torch.zeros(self.count, dtype=torch.long)
        for step in self._passes:
            hidden = model.hidden(step.batch.ids, step.batch.mask)[step.line, step.column]
            said, choice = foretold(model, hidden, step.wanted)
            total.index_add_(0, step.query, said.double().cpu())
            missed.index_add_(0, step.query, (choice != step.wanted).long().cpu())
        return total, missed == 0


def _places(batch: Batch, guests: Sequence[Sequence[int]], queries: Sequence[Query]) -> _Pass:
    """Where each target token of each query is foretold; `guests` are the queries of each row."""
    found = [
        (row, len(queries[index].fed) - len(queries[index].target) + nth, token, index)
        for row, indices in enumerate(guests)
        for index in indices
        for nth, token in enumerate(queries[index].target)
    ]
    line, column, wanted, query = torch.tensor(found, dtype=torch.long).unbind(dim=1)
    device = batch.ids.device
    return _Pass(batch, line.to(device), column.to(device), wanted.to(device), query)

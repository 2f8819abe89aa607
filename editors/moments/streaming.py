"""One streaming pass over a corpus that serves all layers: E[k kᵀ] of the inputs of their matrices.

The forward pass ends before the highest layer's matrix and never reaches the head. Features are cast to
float32, multiplied in float32 on the model's device and summed in float64. Documents are tokenised a window
at a time and batched by length, so that little is padding; between two windows a pass can be interrupted and
resumed.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from editors.errors import DataError, NumericsError
from editors.models.hooks import capture
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize
from editors.moments.moment_sources import SITE
from editors.phases import Phase, Report, silent

log = logging.getLogger(__name__)

UNLIMITED = sys.maxsize
_NAME = "collecting second moments"

Row = tuple[int, ...]
"""Token ids of one document."""


class SecondMoment:
    """Running sum of k kᵀ in float64; of the symmetric matrix only the upper triangle is kept up to date.

    The product is formed strip by strip right of the diagonal: 9/16 of the multiplications, and an eighth of
    the memory, of the whole.
    """

    strips = 8

    def __init__(self, total: Float[Tensor, "in in"], count: int = 0) -> None:
        self.total = total
        self.count = count

    @classmethod
    def zero(cls, width: int, device: torch.device | str = "cpu") -> "SecondMoment":
        """The sum of no keys."""
        return cls(torch.zeros(width, width, dtype=torch.float64, device=device))

    def update(self, keys: Float[Tensor, "token in"]) -> "SecondMoment":
        """Add one key per row."""
        width = self.total.shape[0]
        step = -(-width // self.strips)
        for start in range(0, width, step):
            strip = keys[:, start : start + step].T @ keys[:, start:]
            self.total[start : start + step, start:] += strip.to(self.total.device)
        self.count += keys.shape[0]
        return self

    @property
    def matrix(self) -> Float[Tensor, "in in"]:
        """E[k kᵀ], the mean rather than the sum; exactly symmetric."""
        upper = self.total.triu()
        return (upper + upper.triu(1).T) / max(self.count, 1)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The amount of a corpus that is read, from its beginning."""

    documents: int = UNLIMITED
    """Largest number of documents with at least one token."""
    tokens: int = UNLIMITED
    """Largest number of tokens; the last document is cut there."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """Cutting, sorting and padding of documents; only `max_tokens` changes the result."""

    max_tokens: int = 4096
    """Largest number of tokens of a document, capped at the model's maximum; the rest is ignored."""
    batch_tokens: int = 4096
    """Padded tokens in one forward pass; a single longer document is a batch of its own."""
    window: int = 256
    """Documents that are sorted by length and batched together."""


@dataclass(kw_only=True)
class Tally:
    """The progress of a pass: everything needed to continue as if it had not been interrupted."""

    moments: dict[int, SecondMoment]
    read: int = 0
    """Documents read from the corpus, empty ones included."""
    documents: int = 0
    tokens: int = 0

    @classmethod
    def start(cls, model: Model, layers: Sequence[int]) -> "Tally":
        """The tally of a pass that has read nothing."""
        home = home_of_totals(model, layers)
        widths = {layer: model.weight(SITE, layer).shape[1] for layer in layers}
        return cls(moments={layer: SecondMoment.zero(width, home) for layer, width in widths.items()})


def home_of_totals(model: Model, layers: Sequence[int]) -> torch.device:
    """The device of the float64 sums of these layers."""
    return home_of_sums(model, [model.weight(SITE, layer).shape[1] for layer in layers])


def home_of_sums(model: Model, widths: Sequence[int]) -> torch.device:
    """The device of float64 sums of matrices of these widths.

    It is the model's, because moving a product of 14336² entries per batch and layer to the host would take
    longer than the forward pass. It is the host if they would fill more than half of the free memory, and for
    devices without float64.
    """
    if model.device.type != "cuda":
        return torch.device("cpu")
    needed = sum(8 * width**2 for width in widths)
    free, _ = torch.cuda.mem_get_info(model.device)
    return model.device if 2 * needed < free else torch.device("cpu")


@torch.no_grad()
def collect(
    model: Model,
    corpus: Iterable[str],
    budget: Budget,
    batching: Batching,
    tally: Tally,
    pause: Callable[[Tally], object] = lambda tally: None,
    report: Report = silent,
) -> Tally:
    """Continue from the tally until the budget or the corpus ends.

    `pause` is called after every window, when the tally may be saved, `report` before every batch.

    Raises:
        DataError: for a corpus without text.
        NumericsError: for keys with NaN or infinity.
    """
    texts = islice(iter(corpus), tally.read, None)
    while tally.documents < budget.documents and tally.tokens < budget.tokens:
        window = list(islice(texts, batching.window))
        if not window:
            log.warning(
                "the corpus ended after %d documents with %d tokens, before the budget did",
                tally.documents,
                tally.tokens,
            )
            break
        rows = _rows(model, window, budget, batching, tally)
        documents, tokens = tally.documents, tally.tokens
        for batch in batches(rows, batching.batch_tokens):
            report(_phase(budget, documents, tokens))
            _count(model, batch, tally)
            documents, tokens = documents + len(batch), tokens + sum(map(len, batch))
        tally.read += len(window)
        tally.documents, tally.tokens = documents, tokens
        pause(tally)
    _check(tally)
    return tally


def _rows(model: Model, texts: Iterable[str], budget: Budget, batching: Batching, tally: Tally) -> list[Row]:
    """Token ids of the documents, cut at the maximum length and at the rest of the budget."""
    longest = min(model.max_tokens, batching.max_tokens)
    left = budget.tokens - tally.tokens
    rows: list[Row] = []
    for text in texts:
        if left == 0 or tally.documents + len(rows) == budget.documents:
            break
        if row := tokenize(model.tokenizer, text).ids[: min(longest, left)]:
            rows.append(row)
            left -= len(row)
    return rows


def batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows of about the same length together, longest first, at most `batch_tokens` with padding.

    No row is shorter than three quarters of the longest of its batch, so that at most a quarter is padding.
    """
    batch: list[Row] = []
    for row in sorted(rows, key=len, reverse=True):
        if batch:
            full = len(batch[0]) * (len(batch) + 1) > batch_tokens
            if full or 4 * len(row) < 3 * len(batch[0]):
                yield batch
                batch = []
        batch.append(row)
    if batch:
        yield batch


def _count(model: Model, batch: Sequence[Row], tally: Tally) -> None:
    """Run one forward pass up to the highest layer and add the keys to the moments of all layers."""
    ids, mask = (x.to(model.device) for x in pad(batch))
    modules = {layer: model.module(SITE, layer) for layer in tally.moments}
    with capture(inputs=modules, stop_before=modules[max(modules)]) as keys:
        model.hidden(ids, mask)
    for layer, moment in tally.moments.items():
        moment.update(keys.pop(layer)[mask].float())


def _check(tally: Tally) -> None:
    if not tally.tokens:
        raise DataError("the corpus for the second moments holds no text")
    for layer, moment in tally.moments.items():
        if not moment.total.diagonal().isfinite().all():
            raise NumericsError(
                f"keys of block {layer} hold NaN or infinity; load the model with dtype=float32 or bfloat16"
            )


def _phase(budget: Budget, documents: int, tokens: int) -> Phase:
    """The progress in tokens or documents, depending on the budget."""
    if budget.tokens < UNLIMITED:
        return Phase(name=_NAME, count=tokens, total=budget.tokens, unit="tokens")
    return Phase(name=_NAME, count=documents, total=budget.documents, unit="documents")

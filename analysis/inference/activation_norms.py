"""Norms of the activations of every block and sub-module over a text, from one forward pass per batch.

A norm is reduced to one number per token inside the pass; whole vectors are kept of sampled tokens only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.inference.residuals import PARTS, Part, SamplePositions, samples_in_batch
from analysis.inference.texts import Batch, Document
from editors.models.hooks import capture, observe
from editors.models.model import Model

_TRIMMED = 20
"""One of so many values is cut off at either end of a trimmed mean."""


@dataclass(frozen=True)
class TokenSample:
    """Documents, and those of their tokens whose vectors are compared."""

    prefix: str
    """Prefix of the last part of the keys: empty, or `prompts.`."""
    documents: Sequence[Document]
    positions: SamplePositions
    leading: int
    """Number of tokens at the start of each document that no statistic counts."""


@dataclass(frozen=True)
class ActivationStatistics:
    """The result of one pass over a sample."""

    mean: Mapping[Part, float]
    """Norm, averaged over tokens."""
    median: Mapping[Part, float]
    """Median of the norm over tokens."""
    trimmed: Mapping[Part, float]
    """Mean of the norm over tokens without the smallest and the largest twentieth of them."""
    first: Mapping[Part, float]
    """Norm at the first token, averaged over documents."""
    everywhere: Mapping[Part, float]
    """Norm, averaged over all tokens, those at the start of each document included."""
    spread: Mapping[Part, float]
    """Standard deviation of the norm over tokens."""
    last: Mapping[Part, float]
    """Norm at the last token, averaged over documents."""
    share: Mapping[Part, float]
    """‖contribution‖ / Σ ‖contribution‖ over the input and all sub-modules, averaged over tokens."""
    vectors: Float[Tensor, "block sample width"]
    """Residual stream after each block at the compared tokens, in main memory."""


class Collector:
    """Runs batches and collects one norm per token of every part."""

    def __init__(self, model: Model, sample: TokenSample) -> None:
        self.model, self.sample = model, sample
        self.offsets = sample.positions.offsets
        precision = torch.promote_types(model.dtype, torch.float32)
        self.vectors = torch.empty(model.depth, self.offsets[-1], model.width, dtype=precision)
        self.norms: dict[Part, list[Tensor]] = {}
        self.leading: dict[Part, list[Tensor]] = {}
        self.firsts: dict[Part, list[Tensor]] = {}
        self.lasts: list[Tensor] = []

    def run(self, batch: Batch) -> None:
        """One forward pass: collect the vectors of the compared tokens and the norms of all counted ones."""
        model = self.model
        counted = batch.after(self.sample.leading)
        leading = batch.mask & ~counted
        row, column, sample = samples_in_batch(batch, self.sample.positions, self.offsets)

        def collect(part: Part, output: Tensor) -> None:
            if part[0] == "block":
                self.vectors[part[1], sample] = output[row, column].to(self.vectors)
            collect_norms(part, output)

        def collect_norms(part: Part, output: Tensor) -> None:
            for norms, vectors in (
                (self.norms, output[counted]),
                (self.leading, output[leading]),
                (self.firsts, output[:, 0]),
            ):
                norms.setdefault(part, []).append(vectors.double().norm(dim=1).cpu())

        parts = {(kind, layer): model.writer(kind, layer) for layer in range(model.depth) for kind in PARTS}
        with capture(inputs={"input": model.block(0)}) as captured, observe(parts, collect):
            model.hidden(batch.ids, batch.mask)
        collect_norms(("input", 0), captured["input"])
        ends = torch.zeros_like(batch.mask)
        ends[torch.arange(len(ends)), batch.mask.sum(dim=1) - 1] = True
        self.lasts.append(ends[counted].cpu())

    def statistics(self) -> ActivationStatistics:
        """Statistics of all tokens counted so far."""
        norms, leading, firsts = (
            {part: torch.cat(pieces) for part, pieces in each.items()}
            for each in (self.norms, self.leading, self.firsts)
        )
        last = torch.cat(self.lasts)
        contributions = {part: values for part, values in norms.items() if part[0] != "block"}
        whole = torch.stack(list(contributions.values())).sum(dim=0)
        return ActivationStatistics(
            mean={part: float(values.mean()) for part, values in norms.items()},
            median={part: float(values.quantile(0.5)) for part, values in norms.items()},
            trimmed={part: _trimmed_mean(values) for part, values in norms.items()},
            first={part: float(values.mean()) for part, values in firsts.items()},
            everywhere={
                part: float(torch.cat([values, leading[part]]).mean()) for part, values in norms.items()
            },
            spread={part: float(values.std(correction=0)) for part, values in norms.items()},
            last={part: float(values[last].mean()) for part, values in norms.items()},
            share={part: float((values / whole).mean()) for part, values in contributions.items()},
            vectors=self.vectors,
        )


def _trimmed_mean(values: Float[Tensor, " token"]) -> float:
    """The mean without the smallest and the largest twentieth of the values."""
    cut = len(values) // _TRIMMED
    return float(values.sort().values[cut : len(values) - cut].mean())

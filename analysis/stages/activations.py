"""Activation norms of every block and its sub-modules, and how far the activations turned.

The residual stream after block l is the sum of the input embedding and of everything that attention and MLPs
wrote up to there. Weights that grow write longer vectors, and the blocks above read a stream that they were
not trained on. The papers find three signs of it after edits: the norms of later activations shift (arXiv
2502.19416), the edited blocks take a larger share of the stream (arXiv 2502.01636, figure 5), and
representations move into other subspaces. With h a vector at one token:

    norm     ‖h‖                          share   ‖written by a sub-module‖ / Σ ‖written by each of them‖
    drift    cos(h₀, h), principal angles of the leading components, linear CKA; see `analysis.linalg`

A norm is reduced to one number per token inside the pass; whole vectors are kept of `compared` tokens only,
those of the unedited and those of the current model.
"""

import logging
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.inference.activation_norms import ActivationStatistics, Collector, TokenSample
from analysis.inference.residuals import PARTS, SamplePositions
from analysis.inference.texts import Document, TextSet, batches
from analysis.linalg import (
    centred,
    effective_rank,
    largest_angle,
    linear_cka,
    overlap,
    principal,
    rankme,
    ratio,
)
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from editors.data import Fact
from editors.models.model import Model
from editors.models.tokenization import tokenize

log = logging.getLogger(__name__)

_RATIOS = {
    "norm": "mean",
    "last_norm": "last",
    "median": "median",
    "trimmed": "trimmed",
    "first_norm": "first",
    "everywhere": "everywhere",
}
"""Names of the norms that are divided by their unedited values, and the statistic of each."""


@dataclass(kw_only=True)
class Activations(Stage):
    """Norms, shares and drift of the activations on a fixed text, and on prompts of the edited facts.

    Keys, for `<part>` one of `block.LL` (the residual stream after block LL), `attention.LL`, `mlp.LL` (the
    vectors that the sub-module adds to it): `activation/norm/<part>` mean over tokens,
    `activation/spread/<part>` their standard deviation, `activation/last_norm/<part>` at the last token of
    each document; both means divided by their unedited value as `activation/norm_ratio/<part>`,
    `activation/last_norm_ratio/<part>`;
    robust against single tokens, `activation/median/<part>` and `activation/trimmed/<part>`, the mean without
    the smallest and the largest twentieth; `activation/first_norm/<part>` at the first token of documents,
    where trained models park an attention sink, and `activation/everywhere/<part>`, the mean with the leading
    tokens, which this sink can dominate. Each of the four over its unedited value: `…_ratio/<part>`.
    `activation/norm_ratio/late`, mean over the blocks of the last third, and `activation/median_ratio/late`,
    `activation/everywhere_ratio/late` likewise; `activation/share/<part>` for
    `input.00` and the sub-modules, which add up to 1. Between edited and unedited vectors of the same
    tokens, for every block: `activation/cosine/block.LL`, and of their `rank` leading principal components
    `activation/subspace_overlap/block.LL`, `activation/principal_angle/block.LL` (the largest, in degrees),
    and `activation/cka/block.LL`. Of the vectors themselves `activation/effective_rank/block.LL` and
    `activation/rankme/block.LL`: how many directions they fill. With `prompts.` before `<part>` the same on
    prompts of edited facts.

    Memory beside the model: 4 · blocks · compared · width bytes for the unedited vectors and as much while
    measuring, in main memory, and one batch of one module's output.
    """

    texts: TextSet
    name: str = "activations"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(100, 1000, 10_000)))
    prompts: int = 100
    """Number of facts, from the first edited one on, whose prompts form a second sample; 0 for none."""
    leading: int = 1
    """Tokens left out at the start of each document, where trained models have far larger norms."""
    compared: int = 1000
    """Tokens per sample, drawn by `seed`, whose vectors are compared with the unedited ones."""
    rank: int = 10
    """Principal components that span the subspace."""
    seed: int = 0
    """Seed of the compared tokens."""
    batch_tokens: int = 2048
    """Tokens of one forward pass, padding included."""

    def __post_init__(self) -> None:
        self.check_minimums(prompts=0, leading=0, compared=2, rank=1, batch_tokens=1)

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Read the texts and measure the unedited model.

        Raises:
            DataError: if the texts hold too few tokens.
        """
        self._samples = list(self._make_samples(model, planned))
        self._unedited = [self._pass(model, sample) for sample in self._samples]
        self._bases = [[self._basis(x) for x in statistics.vectors] for statistics in self._unedited]
        size = sum(statistics.vectors.nbytes for statistics in self._unedited)
        log.info("activations: %.2g GiB of unedited vectors are kept in main memory", size / 2**30)

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """One pass over each sample; none at the start, since nothing has changed since `prepare`."""
        result: Measurement = {}
        for sample, before, bases in zip(self._samples, self._unedited, self._bases, strict=True):
            now = self._pass(model, sample) if not observation.is_unedited else before
            metrics = _norm_metrics(before, now) | self._drift(before, now, bases)
            result |= {_prefixed(key, sample.prefix): value for key, value in metrics.items()}
        return result

    def _make_samples(self, model: Model, planned: Sequence[Fact]) -> Iterator[TokenSample]:
        documents = self.texts.read(model, planned)
        yield self._draw("", [d for d in documents if len(d) > self.leading])
        statements = [fact.statement for fact in planned[: self.prompts]]
        prompts = [tokenize(model.tokenizer, text).ids[-model.max_tokens :] for text in statements]
        if long_enough := [ids for ids in prompts if len(ids) > self.leading]:
            yield self._draw("prompts.", long_enough)

    def _draw(self, prefix: str, documents: Sequence[Document]) -> TokenSample:
        """The documents, with `compared` of their tokens drawn at random."""
        tokens = [(i, p) for i, ids in enumerate(documents) for p in range(self.leading, len(ids))]
        sample = random.Random(self.seed).sample(tokens, min(self.compared, len(tokens)))
        positions: list[list[int]] = [[] for _ in documents]
        for index, position in sorted(sample):
            positions[index].append(position)
        return TokenSample(prefix, documents, SamplePositions(positions), self.leading)

    @torch.inference_mode()
    def _pass(self, model: Model, sample: TokenSample) -> ActivationStatistics:
        collector = Collector(model, sample)
        for batch in batches(sample.documents, model, self.batch_tokens):
            collector.run(batch)
        return collector.statistics()

    def _basis(self, vectors: Float[Tensor, "sample width"]) -> Tensor:
        return principal(centred(vectors), self.rank)

    def _drift(
        self, before: ActivationStatistics, now: ActivationStatistics, bases: Sequence[Tensor]
    ) -> Measurement:
        """How far the vectors of each block turned from the unedited ones, of which `bases` span the leading
        components."""
        result: Measurement = {}
        for layer, (old, new) in enumerate(zip(before.vectors, now.vectors, strict=True)):
            part, basis = f"block.{layer:02d}", self._basis(new)
            cosine = torch.cosine_similarity(old.double(), new.double(), dim=1)
            result[f"activation/cosine/{part}"] = float(cosine.mean())
            result[f"activation/subspace_overlap/{part}"] = overlap(bases[layer], basis)
            result[f"activation/principal_angle/{part}"] = largest_angle(bases[layer], basis)
            result[f"activation/cka/{part}"] = linear_cka(centred(old), centred(new))
            result[f"activation/effective_rank/{part}"] = effective_rank(centred(new))
            result[f"activation/rankme/{part}"] = rankme(new)
        return result


def _norm_metrics(before: ActivationStatistics, now: ActivationStatistics) -> Measurement:
    result: Measurement = {}
    for part in now.mean:
        label = f"{part[0]}.{part[1]:02d}"
        if part[0] in PARTS:
            result[f"activation/spread/{label}"] = now.spread[part]
            for name, quantity in _RATIOS.items():
                value = getattr(now, quantity)[part]
                result[f"activation/{name}/{label}"] = value
                result[f"activation/{name}_ratio/{label}"] = ratio(value, getattr(before, quantity)[part])
        if part in now.share:
            result[f"activation/share/{label}"] = now.share[part]
    for name in ("norm", "median", "everywhere"):
        result[f"activation/{name}_ratio/late"] = _late(result, f"activation/{name}_ratio", len(now.vectors))
    return result


def _late(result: Measurement, quantity: str, depth: int) -> float:
    """Mean over the blocks of the last third."""
    late = range(min(math.ceil(2 * depth / 3), depth - 1), depth)
    return sum(cast("float", result[f"{quantity}/block.{layer:02d}"]) for layer in late) / len(late)


def _prefixed(key: str, prefix: str) -> str:
    """The key with a prefix before its last part."""
    area, quantity, label = key.split("/")
    return f"{area}/{quantity}/{prefix}{label}"

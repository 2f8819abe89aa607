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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.inference.residuals import PARTS, Part, SamplePositions, samples_in_batch
from analysis.inference.texts import Batch, Document, TextSet, batches
from analysis.linalg import centred, largest_angle, linear_cka, overlap, principal, ratio
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from editors.data import Fact
from editors.models.hooks import capture, observe
from editors.models.model import Model
from editors.models.tokenization import tokenize

log = logging.getLogger(__name__)


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
    spread: Mapping[Part, float]
    """Standard deviation of the norm over tokens."""
    last: Mapping[Part, float]
    """Norm at the last token, averaged over documents."""
    share: Mapping[Part, float]
    """‖contribution‖ / Σ ‖contribution‖ over the input and all sub-modules, averaged over tokens."""
    vectors: Float[Tensor, "block sample width"]
    """Residual stream after each block at the compared tokens, in main memory."""


@dataclass(kw_only=True)
class Activations(Stage):
    """Norms, shares and drift of the activations on a fixed text, and on prompts of the edited facts.

    Keys, for `<part>` one of `block.LL` (the residual stream after block LL), `attention.LL`, `mlp.LL` (the
    vectors that the sub-module adds to it): `activation/norm/<part>` mean over tokens,
    `activation/spread/<part>` their standard deviation, `activation/last_norm/<part>` at the last token of
    each document; both means divided by their unedited value as `activation/norm_ratio/<part>`,
    `activation/last_norm_ratio/<part>`;
    `activation/norm_ratio/late`, mean over the blocks of the last third; `activation/share/<part>` for
    `input.00` and the sub-modules, which add up to 1. Between edited and unedited vectors of the same
    tokens, for every block: `activation/cosine/block.LL`, and of their `rank` leading principal components
    `activation/subspace_overlap/block.LL`, `activation/principal_angle/block.LL` (the largest, in degrees),
    and `activation/cka/block.LL`. With `prompts.` before `<part>` the same on prompts of edited facts.

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
        collector = _Collector(model, sample)
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
        return result


class _Collector:
    """Runs batches and collects one norm per token of every part."""

    def __init__(self, model: Model, sample: TokenSample) -> None:
        self.model, self.sample = model, sample
        self.offsets = sample.positions.offsets
        precision = torch.promote_types(model.dtype, torch.float32)
        self.vectors = torch.empty(model.depth, self.offsets[-1], model.width, dtype=precision)
        self.norms: dict[Part, list[Tensor]] = {}
        self.lasts: list[Tensor] = []

    def run(self, batch: Batch) -> None:
        """One forward pass: collect the vectors of the compared tokens and the norms of all counted ones."""
        model = self.model
        counted = batch.mask.clone()
        counted[:, : self.sample.leading] = False
        row, column, sample = samples_in_batch(batch, self.sample.positions, self.offsets)

        def collect(part: Part, output: Tensor) -> None:
            if part[0] == "block":
                self.vectors[part[1], sample] = output[row, column].to(self.vectors)
            self._collect_norms(part, output[counted])

        parts = {(kind, layer): model.module(kind, layer) for layer in range(model.depth) for kind in PARTS}
        with capture(inputs={"input": model.block(0)}) as captured, observe(parts, collect):
            model.hidden(batch.ids, batch.mask)
        self._collect_norms(("input", 0), captured["input"][counted])
        ends = torch.zeros_like(batch.mask)
        ends[torch.arange(len(ends)), batch.mask.sum(dim=1) - 1] = True
        self.lasts.append(ends[counted].cpu())

    def _collect_norms(self, part: Part, vectors: Float[Tensor, "token width"]) -> None:
        self.norms.setdefault(part, []).append(vectors.double().norm(dim=1).cpu())

    def statistics(self) -> ActivationStatistics:
        """Statistics of all tokens counted so far."""
        norms = {part: torch.cat(pieces) for part, pieces in self.norms.items()}
        last = torch.cat(self.lasts)
        contributions = {part: values for part, values in norms.items() if part[0] != "block"}
        whole = torch.stack(list(contributions.values())).sum(dim=0)
        return ActivationStatistics(
            mean={part: float(values.mean()) for part, values in norms.items()},
            spread={part: float(values.std(correction=0)) for part, values in norms.items()},
            last={part: float(values[last].mean()) for part, values in norms.items()},
            share={part: float((values / whole).mean()) for part, values in contributions.items()},
            vectors=self.vectors,
        )


def _norm_metrics(before: ActivationStatistics, now: ActivationStatistics) -> Measurement:
    result: Measurement = {}
    for part in now.mean:
        label = f"{part[0]}.{part[1]:02d}"
        if part[0] in PARTS:
            result[f"activation/norm/{label}"] = now.mean[part]
            result[f"activation/spread/{label}"] = now.spread[part]
            result[f"activation/last_norm/{label}"] = now.last[part]
            result[f"activation/norm_ratio/{label}"] = ratio(now.mean[part], before.mean[part])
            result[f"activation/last_norm_ratio/{label}"] = ratio(now.last[part], before.last[part])
        if part in now.share:
            result[f"activation/share/{label}"] = now.share[part]
    result["activation/norm_ratio/late"] = _late_ratio(before, now)
    return result


def _late_ratio(before: ActivationStatistics, now: ActivationStatistics) -> float:
    """Mean ratio over the blocks of the last third."""
    depth = len(now.vectors)
    late = range(min(math.ceil(2 * depth / 3), depth - 1), depth)
    return sum(ratio(now.mean["block", i], before.mean["block", i]) for i in late) / len(late)


def _prefixed(key: str, prefix: str) -> str:
    """The key with a prefix before its last part."""
    area, quantity, label = key.split("/")
    return f"{area}/{quantity}/{prefix}{label}"

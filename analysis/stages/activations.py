"""Activation norms of every block and its parts, and how far they have turned, from one forward pass.

The papers' second finding: after edits the norms of later activations shift (arXiv 2502.19416), the edited
blocks take a larger share of the residual stream (arXiv 2502.01636, figure 5), and representations move into
other subspaces. A norm is reduced to a number a token inside the pass; whole vectors are kept of `compared`
tokens only, those of the unedited model and those of now.
"""

import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.inference.residuals import PARTS, Part, Places, chosen_tokens
from analysis.inference.texts import Batch, Document, TextSet, batches
from analysis.linalg import centred, largest_angle, linear_cka, overlap, principal
from analysis.stages.base import Cadence, Measurement, Observation
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.hooks import capture, observe
from editors.models.model import Model
from editors.models.tokenization import tokenize

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """Documents, and those of their tokens whose vectors are compared."""

    prefix: str
    """Of the last part of the keys: empty, or `prompts.`."""
    documents: Sequence[Document]
    places: Places
    leading: int
    """Tokens at the start of each document that no statistic counts."""


@dataclass(frozen=True)
class Passed:
    """What one pass over a sample leaves."""

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
class Activations:
    """Norms, shares and drift of the activations on a fixed text, and on prompts of the edited facts.

    Keys, for `<part>` one of `block.LL` (the residual stream after block LL), `attention.LL`, `mlp.LL` (what
    the sub-module adds to it): `activation/norm/<part>` mean over tokens, `activation/spread/<part>` their
    standard deviation, `activation/last_norm/<part>` at the last token of each document; both means over
    their unedited value as `activation/norm_ratio/<part>`, `activation/last_norm_ratio/<part>`;
    `activation/norm_ratio/late`, mean over the blocks of the last third; `activation/share/<part>` for
    `input.00` and the sub-modules, which adds up to 1. Between edited and unedited vectors of the same
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
    """Facts, from the first edited one on, whose prompts form the second set; 0 leaves it out."""
    leading: int = 1
    """Tokens left out at the start of each document: trained models park norms there that dwarf others."""
    compared: int = 1000
    """Tokens of each set, drawn by `seed`, whose vectors are compared with the unedited ones."""
    rank: int = 10
    """Principal components that span the subspace."""
    seed: int = 0
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        least = {"prompts": 0, "leading": 0, "compared": 2, "rank": 1, "batch_tokens": 1}
        for key, low in least.items():
            if getattr(self, key) < low:
                raise ConfigError(f"stage.activations.{key}={getattr(self, key)}, but it is at least {low}")

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Read the texts and measure the unedited model.

        Raises:
            DataError: where the texts hold too few tokens.
        """
        self._samples = list(self._sets(model, planned))
        self._unedited = [self._pass(model, sample) for sample in self._samples]
        self._bases = [[self._basis(x) for x in passed.vectors] for passed in self._unedited]
        kept = sum(passed.vectors.nbytes for passed in self._unedited)
        log.info("activations: %.2g GiB of unedited vectors are kept in main memory", kept / 2**30)

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """One pass over each set; none at the start, since nothing has changed since `prepare`."""
        result: Measurement = {}
        for sample, before, bases in zip(self._samples, self._unedited, self._bases, strict=True):
            now = self._pass(model, sample) if not observation.is_unedited else before
            found = _norms(before, now) | self._drift(before, now, bases)
            result |= {_prefixed(key, sample.prefix): value for key, value in found.items()}
        return result

    def _sets(self, model: Model, planned: Sequence[Fact]) -> Iterator[Sample]:
        documents = self.texts.read(model, planned)
        yield self._sample("", [d for d in documents if len(d) > self.leading])
        statements = [fact.statement for fact in planned[: self.prompts]]
        prompts = [tokenize(model.tokenizer, text).ids[-model.max_tokens :] for text in statements]
        if long_enough := [ids for ids in prompts if len(ids) > self.leading]:
            yield self._sample("prompts.", long_enough)

    def _sample(self, prefix: str, documents: Sequence[Document]) -> Sample:
        tokens = [(i, p) for i, ids in enumerate(documents) for p in range(self.leading, len(ids))]
        drawn = random.Random(self.seed).sample(tokens, min(self.compared, len(tokens)))
        positions: list[list[int]] = [[] for _ in documents]
        for index, position in sorted(drawn):
            positions[index].append(position)
        return Sample(prefix, documents, Places(positions), self.leading)

    @torch.inference_mode()
    def _pass(self, model: Model, sample: Sample) -> Passed:
        tally = _Tally(model, sample)
        for batch in batches(sample.documents, model, self.batch_tokens):
            tally.run(batch)
        return tally.result()

    def _basis(self, vectors: Float[Tensor, "sample width"]) -> Tensor:
        return principal(centred(vectors), self.rank)

    def _drift(self, before: Passed, now: Passed, bases: Sequence[Tensor]) -> Measurement:
        result: Measurement = {}
        for layer, (old, new) in enumerate(zip(before.vectors, now.vectors, strict=True)):
            where, basis = f"block.{layer:02d}", self._basis(new)
            cosine = torch.cosine_similarity(old.double(), new.double(), dim=1)
            result[f"activation/cosine/{where}"] = float(cosine.mean())
            result[f"activation/subspace_overlap/{where}"] = overlap(bases[layer], basis)
            result[f"activation/principal_angle/{where}"] = largest_angle(bases[layer], basis)
            result[f"activation/cka/{where}"] = linear_cka(centred(old), centred(new))
        return result


class _Tally:
    """Runs batches and keeps a norm a token of every part."""

    def __init__(self, model: Model, sample: Sample) -> None:
        self.model, self.sample = model, sample
        self.starts = sample.places.starts
        precision = torch.promote_types(model.dtype, torch.float32)
        self.vectors = torch.empty(model.depth, self.starts[-1], model.width, dtype=precision)
        self.norms: dict[Part, list[Tensor]] = {}
        self.lasts: list[Tensor] = []

    def run(self, batch: Batch) -> None:
        """One forward pass: the vectors of the compared tokens, the norms of all that count."""
        model = self.model
        counted = batch.mask.clone()
        counted[:, : self.sample.leading] = False
        line, column, into = chosen_tokens(batch, self.sample.places, self.starts)

        def see(part: Part, output: Tensor) -> None:
            if part[0] == "block":
                self.vectors[part[1], into] = output[line, column].to(self.vectors)
            self._count(part, output[counted])

        parts = {(kind, layer): model.module(kind, layer) for layer in range(model.depth) for kind in PARTS}
        with capture(inputs={"input": model.block(0)}) as seen, observe(parts, see):
            model.hidden(batch.ids, batch.mask)
        self._count(("input", 0), seen["input"][counted])
        ends = torch.zeros_like(batch.mask)
        ends[torch.arange(len(ends)), batch.mask.sum(dim=1) - 1] = True
        self.lasts.append(ends[counted].cpu())

    def _count(self, part: Part, vectors: Float[Tensor, "token width"]) -> None:
        self.norms.setdefault(part, []).append(vectors.double().norm(dim=1).cpu())

    def result(self) -> Passed:
        """Means over all tokens counted so far."""
        norms = {part: torch.cat(pieces) for part, pieces in self.norms.items()}
        last = torch.cat(self.lasts)
        contributions = {part: values for part, values in norms.items() if part[0] != "block"}
        whole = torch.stack(list(contributions.values())).sum(dim=0)
        return Passed(
            mean={part: float(values.mean()) for part, values in norms.items()},
            spread={part: float(values.std(correction=0)) for part, values in norms.items()},
            last={part: float(values[last].mean()) for part, values in norms.items()},
            share={part: float((values / whole).mean()) for part, values in contributions.items()},
            vectors=self.vectors,
        )


def _norms(before: Passed, now: Passed) -> Measurement:
    result: Measurement = {}
    for part in now.mean:
        where = f"{part[0]}.{part[1]:02d}"
        if part[0] in PARTS:
            result[f"activation/norm/{where}"] = now.mean[part]
            result[f"activation/spread/{where}"] = now.spread[part]
            result[f"activation/last_norm/{where}"] = now.last[part]
            result[f"activation/norm_ratio/{where}"] = _ratio(now.mean[part], before.mean[part])
            result[f"activation/last_norm_ratio/{where}"] = _ratio(now.last[part], before.last[part])
        if part in now.share:
            result[f"activation/share/{where}"] = now.share[part]
    result["activation/norm_ratio/late"] = _late(before, now)
    return result


def _late(before: Passed, now: Passed) -> float:
    """Mean ratio over the blocks of the last third."""
    depth = len(now.vectors)
    late = range(min(math.ceil(2 * depth / 3), depth - 1), depth)
    return sum(_ratio(now.mean["block", i], before.mean["block", i]) for i in late) / len(late)


def _ratio(now: float, before: float) -> float:
    """`now` over `before`; what was silent and still is has not changed."""
    if now == before:
        return 1.0
    return now / before if before else math.inf


def _prefixed(key: str, prefix: str) -> str:
    area, quantity, where = key.split("/")
    return f"{area}/{quantity}/{prefix}{where}"

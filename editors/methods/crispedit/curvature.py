"""The curvature of a loss by a matrix, as two Kronecker factors, and gradients without its large directions.

The Gauss-Newton matrix of the summed loss −log P(next token) by W is approximated by A ⊗ B with A = E[k kᵀ]
of W's inputs k and B = E[g gᵀ] of the gradients g by its outputs, both over the tokens that predict another
(K-FAC, arXiv 1503.05671; with the tokens of the text in place of drawn ones). With A = U_A diag(a) U_Aᵀ and
B = U_B diag(b) U_Bᵀ, the curvature along the direction of u_j (output) and u_i (input) is b_j a_i.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.data import Corpus
from editors.errors import ConfigError, DataError, NumericsError, check_positive
from editors.models.gradients import TokenGradients, read_text
from editors.models.model import Model
from editors.models.tokenization import tokenize
from editors.moments.streaming import SecondMoment, batches, home_of_sums
from editors.moments.tensor_cache import TensorCache, unless_cached
from editors.phases import Phase, Report, silent
from editors.text_files import local_path
from editors.updates import Site

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the files and of the sums; part of their description."""
_PHASE = "collecting curvature"
_WINDOW = 64
"""Documents that are sorted by length and batched together."""
_BATCH_TOKENS = 1024
"""Padded tokens of one pass with gradients."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Takes from a gradient what lies in directions of large curvature."""

    inputs: Float[Tensor, "in in"]
    """U_A, one eigenvector per column."""
    outputs: Float[Tensor, "out out"]
    """U_B."""
    free: Bool[Tensor, "out in"]
    """M: true for the directions that stay."""

    def __call__(self, gradient: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """U_B ((U_Bᵀ G U_A) ∘ M) U_Aᵀ."""
        rotated = self.outputs.T @ gradient.to(self.outputs) @ self.inputs
        return (self.outputs @ (rotated * self.free) @ self.inputs.T).to(gradient)

    @property
    def share(self) -> float:
        """The share of directions that stay."""
        return float(self.free.double().mean())


@dataclass(frozen=True)
class Curvature:
    """Running sums of both factors for one matrix, in float64."""

    inputs: SecondMoment
    outputs: SecondMoment

    @classmethod
    def zero(cls, shape: Sequence[int], device: torch.device | str = "cpu") -> "Curvature":
        """The sums over no token, for a matrix of shape (out, in)."""
        out, width = shape
        return cls(SecondMoment.zero(width, device), SecondMoment.zero(out, device))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Curvature":
        """The sums that `tensors` gave."""
        count = int(tensors["count"])
        return cls(*(SecondMoment(tensors[name], count) for name in ("inputs", "outputs")))

    def tensors(self) -> dict[str, Tensor]:
        """Both sums and the number of tokens; of the sums only the upper triangle counts."""
        count = torch.tensor(self.inputs.count)
        return {"inputs": self.inputs.total.cpu(), "outputs": self.outputs.total.cpu(), "count": count}

    def add(self, gradients: TokenGradients) -> None:
        """Add the tokens of a pass."""
        self.inputs.update(gradients.keys)
        self.outputs.update(gradients.outputs)

    def __add__(self, other: "Curvature") -> "Curvature":
        """The sums over the tokens of both."""
        return Curvature(*(
            SecondMoment(mine.total + its.total.to(mine.total), mine.count + its.count)
            for mine, its in ((self.inputs, other.inputs), (self.outputs, other.outputs))
        ))  # fmt: skip

    def projection(self, energy: float, device: torch.device | str = "cpu") -> Projection:
        """Keeps the directions of least curvature, beyond the largest that hold `energy` of its sum.

        As published, the direction with which the sum reaches that share is the last that is taken away, and
        those of equal curvature go with it.

        Raises:
            NumericsError: for NaN or infinity in the factors.
        """
        a, inputs = _spectrum(self.inputs, device)
        b, outputs = _spectrum(self.outputs, device)
        curvature = torch.outer(b, a)
        falling = curvature.flatten().sort(descending=True).values
        reached = int((falling.cumsum(0) < energy * falling.sum()).sum())
        smallest = falling[min(reached, len(falling) - 1)]
        return Projection(inputs=inputs, outputs=outputs, free=curvature < smallest)


def zeros(model: Model, sites: Sequence[Site]) -> dict[Site, Curvature]:
    """The curvature of each matrix over no token, where there is room for the sums."""
    shapes = {site: model.current(site).shape for site in sites}
    home = home_of_sums(model, [width for shape in shapes.values() for width in shape])
    return {site: Curvature.zero(shape, home) for site, shape in shapes.items()}


def _spectrum(moment: SecondMoment, device: torch.device | str) -> tuple[Tensor, Tensor]:
    matrix = moment.matrix.to(device)
    if not bool(matrix.isfinite().all()):
        raise NumericsError("the curvature of the loss holds NaN or infinity: compute in float32")
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0), vectors


def add_tokens(model: Model, rows: Sequence[Sequence[int]], curvatures: Mapping[Site, Curvature]) -> None:
    """Add the tokens of some texts, given as ids, to the curvature of each matrix.

    Raises:
        NumericsError: for a loss with NaN or infinity.
    """
    evaluation = read_text(model, rows, min(site.layer for site in curvatures)).evaluate(list(curvatures))
    gradients = evaluation.gradients(evaluation.losses.sum(), predicting=True)
    for site, curvature in curvatures.items():
        curvature.add(gradients[site])


class CurvatureSource(Protocol):
    """A source of the curvature of each matrix on the unedited model."""

    def load(self, model: Model, sites: Sequence[Site], report: Report = silent) -> Mapping[Site, Curvature]:
        """The sums of both factors, for each matrix."""
        ...

    @property
    def label(self) -> str:
        """The data behind the numbers, for every result that depends on them."""
        ...


@dataclass(frozen=True, kw_only=True)
class GivenCurvature:
    """Curvature in memory."""

    curvatures: Mapping[Site, Curvature]

    def load(self, model: Model, sites: Sequence[Site], report: Report = silent) -> Mapping[Site, Curvature]:
        """The sums of the matrices."""
        return {site: self.curvatures[site] for site in sites}

    @property
    def label(self) -> str:
        """A fixed label, because their origin is unknown."""
        return "given"


@dataclass(frozen=True, kw_only=True)
class TextCurvature:
    """The curvature of the unedited model's loss on the beginning of a corpus, kept in a cache."""

    corpus: Corpus
    documents: int = 1000
    """Documents that are read, each cut at `max_tokens`."""
    max_tokens: int = 512
    """Largest number of tokens of a document; capped at the model's maximum."""
    folder: str = "outputs/cache/curvature"
    """Folder of the cached sums."""

    def __post_init__(self) -> None:
        check_positive("editor.curvature", documents=self.documents)
        if self.max_tokens < 2:
            raise ConfigError(f"editor.curvature.max_tokens={self.max_tokens}, but the least is 2")

    @property
    def protects(self) -> Corpus:
        """The corpus."""
        return self.corpus

    @property
    def label(self) -> str:
        """Budget and corpus."""
        return f"curvature: {self.documents:,} documents of {self.corpus.label}"

    def load(self, model: Model, sites: Sequence[Site], report: Report = silent) -> dict[Site, Curvature]:
        """The curvature of each matrix, from the cache if that holds all of them.

        Raises:
            DataError: for a corpus without text of two tokens.
            NumericsError: for a loss with NaN or infinity.
        """
        store = TensorCache(local_path(self.folder), model.name, self._description(model))
        with store.locked():
            cached = {site: store.read(_name_of(site)) for site in sites}
            found = {site: Curvature.of(kept.tensors) for site, kept in cached.items() if kept}
            missing = [site for site in sites if site not in found]
            if missing:
                computed = self._collect(model, missing, report)
                for site, curvature in computed.items():
                    store.write(_name_of(site), curvature.tensors(), model=model.name, text=self.label)
                found |= computed
        return {site: found[site] for site in sites}

    def will_read(self, model: str) -> Iterable[Corpus]:
        """The corpus, unless the cache has curvature of it for a model of this name.

        Raises:
            DataError: if the corpus has no identity, which names its place in the cache.
        """
        return unless_cached(self.corpus, local_path(self.folder), model)

    def _collect(self, model: Model, sites: Sequence[Site], report: Report) -> dict[Site, Curvature]:
        curvatures = zeros(model, sites)
        rows, done = islice(self._rows(model), self.documents), 0
        while window := list(islice(rows, _WINDOW)):
            for batch in batches(window, _BATCH_TOKENS):
                report(Phase(name=_PHASE, count=done, total=self.documents, unit="documents"))
                add_tokens(model, batch, curvatures)
                done += len(batch)
        if not curvatures[sites[0]].inputs.count:
            raise DataError(f"{self.corpus.label} holds no text of two tokens or more: choose another corpus")
        if done < self.documents:
            log.warning("the corpus ended after %d of %d documents for the curvature", done, self.documents)
        return curvatures

    def _rows(self, model: Model) -> Iterator[tuple[int, ...]]:
        longest = min(self.max_tokens, model.max_tokens)
        rows = (tokenize(model.tokenizer, text).ids[:longest] for text in self.corpus)
        return (tuple(row) for row in rows if len(row) > 1)

    def _description(self, model: Model) -> dict[str, object]:
        return {
            "format": FORMAT,
            "model": model.digest,
            "dtype": str(model.dtype),
            "corpus": self.corpus.identity(),
            "documents": self.documents,
            "max_tokens": min(self.max_tokens, model.max_tokens),
        }


def _name_of(site: Site) -> str:
    return f"{site.name}.{site.layer}"

"""Uncentred second moments of keys, E[k kᵀ], over a text corpus: what an edit should leave alone.

One streaming pass serves all layers and ends above the highest one. Features are computed in the
model's precision, summed over a batch in float32 and over the corpus in float64.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from filelock import FileLock
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from editors.errors import ConfigError, DataError
from editors.model.corpus import Corpus
from editors.model.hooks import capture
from editors.model.model import Model
from editors.model.positions import pad, tokenize

SITE = "mlp_down"
"""The matrices whose inputs are keys."""


@runtime_checkable
class MomentSource(Protocol):
    """Gives the second moment of the keys of each layer."""

    def load(self, model: Model, layers: Sequence[int]) -> Mapping[int, Float[Tensor, "in in"]]:
        """Mean of k kᵀ over tokens, for each layer."""
        ...

    def spectra(self, model: Model, layers: Sequence[int]) -> "Mapping[int, Spectrum]":
        """Eigenvalues and eigenvectors of those means, on the model's device."""
        ...

    @property
    def label(self) -> str:
        """Where the numbers are from, for every result that rests on them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Eigendecomposition of a second moment, C = V diag(values) Vᵀ, in float64."""

    values: Float[Tensor, " in"]
    """Eigenvalues, ascending; rounding can leave the smallest a little below zero."""
    vectors: Float[Tensor, "in in"]
    """Eigenvectors, one a column, in the order of the values."""

    @classmethod
    def of(cls, moment: Float[Tensor, "in in"]) -> "Spectrum":
        """The spectrum of a symmetric matrix, on its device."""
        values, vectors = torch.linalg.eigh(moment.double())
        return cls(values=values, vectors=vectors)


class SecondMoment:
    """Running mean of k kᵀ."""

    def __init__(self, width: int) -> None:
        self.total = torch.zeros(width, width, dtype=torch.float64)
        self.count = 0

    def update(self, keys: Float[Tensor, "token in"]) -> "SecondMoment":
        """Count in one key per row."""
        self.total += (keys.T @ keys).to(self.total)
        self.count += keys.shape[0]
        return self

    @property
    def matrix(self) -> Float[Tensor, "in in"]:
        """E[k kᵀ], a mean and not a sum."""
        return self.total / max(self.count, 1)


@dataclass(frozen=True, kw_only=True)
class GivenMoments:
    """Second moments that are already known."""

    matrices: Mapping[int, Tensor]

    def load(self, model: Model, layers: Sequence[int]) -> Mapping[int, Float[Tensor, "in in"]]:
        """The matrices as given."""
        return {layer: self.matrices[layer] for layer in layers}

    def spectra(self, model: Model, layers: Sequence[int]) -> Mapping[int, Spectrum]:
        """Their eigendecompositions, computed at every call."""
        return spectra_of(self.load(model, layers), model)

    @property
    def label(self) -> str:
        """Nothing is known of where they are from."""
        return "given"


def spectra_of(moments: Mapping[int, Float[Tensor, "in in"]], model: Model) -> dict[int, Spectrum]:
    """The spectrum of every layer's moment, computed on the model's device."""
    return {layer: Spectrum.of(moment.to(model.device)) for layer, moment in moments.items()}


@dataclass(frozen=True, kw_only=True)
class CollectedMoments:
    """Second moments over a corpus, computed once for a model and then read from a cache."""

    corpus: Corpus
    tokens: int = 100_000
    """Budget of tokens; the corpus is read from its beginning."""
    batch_tokens: int = 4096
    """Padded tokens in one forward pass."""
    folder: str = "outputs/cache/moments"
    """Where the matrices are kept."""

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"moments.{name}={getattr(self, name)}, but it has to be positive")

    def load(self, model: Model, layers: Sequence[int]) -> Mapping[int, Float[Tensor, "in in"]]:
        """The matrices of the layers, from the cache where they are there."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._key(model, layers)}.safetensors"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                self._write(collect(model, layers, self.corpus, self.tokens, self.batch_tokens), path)
        return {int(layer): matrix for layer, matrix in load_file(path).items()}

    def spectra(self, model: Model, layers: Sequence[int]) -> Mapping[int, Spectrum]:
        """Their eigendecompositions."""
        return spectra_of(self.load(model, layers), model)

    @property
    def label(self) -> str:
        """Budget and corpus."""
        return f"{self.tokens:,} tokens of {self.corpus.identity()}"

    def _key(self, model: Model, layers: Sequence[int]) -> str:
        what = (model.digest, str(model.dtype), self.corpus.identity(), self.tokens, tuple(layers), SITE)
        return f"{model.name}-{hashlib.sha256(repr(what).encode()).hexdigest()[:12]}"

    def _write(self, moments: Mapping[int, SecondMoment], path: Path) -> None:
        partial = path.with_suffix(".partial")
        save_file({str(layer): moment.matrix for layer, moment in moments.items()}, partial)
        partial.rename(path)


@torch.no_grad()
def collect(
    model: Model, layers: Sequence[int], corpus: Iterable[str], tokens: int, batch_tokens: int
) -> dict[int, SecondMoment]:
    """Second moments of the keys of all layers, in one pass over at most `tokens` tokens.

    Raises:
        DataError: for a corpus without text.
    """
    modules = {layer: model.module(SITE, layer) for layer in layers}
    moments: dict[int, SecondMoment] = {}
    with tqdm(total=tokens, desc="second moments", unit="tok", leave=False, disable=None) as bar:
        for rows in _batches(model, corpus, tokens, batch_tokens):
            ids, mask = (x.to(model.device) for x in pad(rows))
            with capture(inputs=modules, stop_after=model.block(max(layers))) as seen:
                model.hidden(ids, mask)
            for layer in layers:
                keys = seen[layer][mask].float().cpu()
                moments.setdefault(layer, SecondMoment(keys.shape[1])).update(keys)
            bar.update(int(mask.sum()))
    if not moments:
        raise DataError("the corpus for the second moments holds no text")
    return moments


def _batches(
    model: Model, corpus: Iterable[str], tokens: int, batch_tokens: int
) -> Iterator[list[tuple[int, ...]]]:
    """Rows of token ids, cut at the model's length and at the budget, batched by padded size."""
    batch: list[tuple[int, ...]] = []
    left = tokens
    for text in corpus:
        row = tokenize(model.tokenizer, text).ids[: min(model.max_tokens, left)]
        if not row:
            continue
        if batch and max(len(r) for r in [*batch, row]) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
        left -= len(row)
        if left <= 0:
            break
    if batch:
        yield batch

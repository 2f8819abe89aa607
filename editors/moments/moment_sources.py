"""Uncentred second moments of keys, C = E[k kᵀ], over a text corpus, which an edit should preserve.

They are given, read from files of the published layout (`ImportedMoments`), or collected
(`editors.moments.collected`); the `label` of every source names the data behind its numbers.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from editors.errors import ConfigError, DataError
from editors.models.model import Model
from editors.phases import Phase, Report, silent
from editors.text_files import local_path

SITE = "mlp_down"
"""The matrices whose inputs are keys."""
_ROUNDING = 1e-3
"""Largest difference of a sum in float32 from its transpose, relative to the largest mean square."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Eigendecomposition of a second moment, C = V diag(values) Vᵀ, in float64."""

    values: Float[Tensor, " in"]
    """Eigenvalues, ascending; rounding can leave the smallest a little below zero."""
    vectors: Float[Tensor, "in in"]
    """Eigenvectors, one per column, in the order of the values."""

    @classmethod
    def of(cls, moment: Float[Tensor, "in in"]) -> "Spectrum":
        """The spectrum of a symmetric matrix, on its device."""
        values, vectors = torch.linalg.eigh(moment.double())
        return cls(values=values, vectors=vectors)


@runtime_checkable
class MomentSource(Protocol):
    """A source of the second moments of the keys of each layer."""

    def load(
        self, model: Model, layers: Sequence[int], report: Report = silent
    ) -> Mapping[int, Float[Tensor, "in in"]]:
        """Mean of k kᵀ over tokens, for each layer."""
        ...

    def spectra(self, model: Model, layers: Sequence[int], report: Report = silent) -> Mapping[int, Spectrum]:
        """Eigenvalues and eigenvectors of those means, on the model's device."""
        ...

    @property
    def label(self) -> str:
        """The data behind the numbers, for every result that depends on them."""
        ...


@dataclass(frozen=True, kw_only=True)
class GivenMoments:
    """Second moments in memory."""

    matrices: Mapping[int, Tensor]

    def load(
        self, model: Model, layers: Sequence[int], report: Report = silent
    ) -> Mapping[int, Float[Tensor, "in in"]]:
        """The matrices of the layers."""
        return {layer: self.matrices[layer] for layer in layers}

    def spectra(self, model: Model, layers: Sequence[int], report: Report = silent) -> Mapping[int, Spectrum]:
        """Their eigendecompositions, computed at every call."""
        return spectra_of(self.load(model, layers, report), model, report)

    @property
    def label(self) -> str:
        """A fixed label, because their origin is unknown."""
        return "given"


@dataclass(frozen=True, kw_only=True)
class ImportedMoments:
    """Second moments from `.npz` files as written by kmeng01/rome `rome/layer_stats.py`, one per layer.

    A file holds `mom2.mom2`, the sum of k kᵀ, and `mom2.count`, its number of tokens; C is their quotient.
    """

    path: str
    """Path of the files, with `{layer}` or `{}` in place of the block's number."""

    def __post_init__(self) -> None:
        try:
            names = {self._file(layer) for layer in (0, 1)}
        except (LookupError, ValueError):
            names = set()
        if len(names) != 2:
            raise ConfigError(
                f"moments.path={self.path} has to hold {{layer}} where a file name has the block's number"
            )

    def load(
        self, model: Model, layers: Sequence[int], report: Report = silent
    ) -> Mapping[int, Float[Tensor, "in in"]]:
        """The matrices of the layers, in float64.

        Raises:
            DataError: for a file that is missing, unreadable, without those entries, or of another width.
        """
        return {layer: self._read(model, layer) for layer in layers}

    def spectra(self, model: Model, layers: Sequence[int], report: Report = silent) -> Mapping[int, Spectrum]:
        """Their eigendecompositions, computed at every call."""
        return spectra_of(self.load(model, layers, report), model, report)

    @property
    def label(self) -> str:
        """The path of the files."""
        return f"imported: {self.path}"

    def _file(self, layer: int) -> Path:
        return local_path(self.path.format(layer, layer=layer))

    def _read(self, model: Model, layer: int) -> Float[Tensor, "in in"]:
        path, width = self._file(layer), model.weight(SITE, layer).shape[1]
        total, count = _entries(path)
        if total.shape != (width, width):
            raise DataError(
                f"{path} holds a second moment of shape {total.shape}, but the keys of block {layer} of "
                f"{model.name} have width {width}: it was collected on another model"
            )
        if count < 1:
            raise DataError(f"{path} was collected over {count} tokens: take a complete file")
        moment = torch.from_numpy(total).double() / count
        if (problem := _not_a_moment(moment)) is not None:
            raise DataError(f"{path} holds no second moment, since {problem}: fetch it again")
        return moment


def _not_a_moment(moment: Float[Tensor, "in in"]) -> str | None:
    """Why a matrix cannot be a mean of k kᵀ, computed in float32; None if it can."""
    if not bool(moment.isfinite().all()):
        return "it has NaN or infinity"
    diagonal = moment.diagonal()
    if bool((diagonal < 0).any()) or not bool(diagonal.any()):
        return "a mean of squares, on its diagonal, is negative or all of them are zero"
    if float((moment - moment.T).abs().max()) > _ROUNDING * float(diagonal.max()):
        return "it is not symmetric"
    return None


def spectra_of(
    moments: Mapping[int, Float[Tensor, "in in"]], model: Model, report: Report = silent
) -> dict[int, Spectrum]:
    """The spectrum of every layer's moment, computed on the model's device."""
    spectra: dict[int, Spectrum] = {}
    for layer, moment in moments.items():
        report(decomposing(len(spectra), len(moments)))
        spectra[layer] = Spectrum.of(moment.to(model.device))
    return spectra


def decomposing(done: int, layers: int) -> Phase:
    """The phase in which spectra are computed."""
    return Phase(name="decomposing second moments", count=done, total=layers, unit="layers")


def _entries(path: Path) -> tuple[np.ndarray, int]:
    """Sum and count of a file in the published layout."""
    if not path.is_file():
        raise DataError(f"there are no second moments in {path}: check moments.path")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return np.asarray(stored["mom2.mom2"], dtype=np.float64), int(stored["mom2.count"])
    except KeyError as error:
        raise DataError(f"{path} has no entry mom2.mom2 or mom2.count: it is of another layout") from error
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz ({error}): fetch it again") from error

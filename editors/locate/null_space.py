"""Locate-then-edit inside the directions that the corpus' keys do not use."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from editors.base import Edit
from editors.data import Fact
from editors.errors import ConfigError
from editors.locate.base import LocateThenEdit
from editors.locate.keys import Keys
from editors.models.model import Model
from editors.moments.moment_sources import SITE, Spectrum
from editors.phases import Report, silent
from editors.solvers import FreeSpace, Preserved, least_squares
from editors.updates import Delta


@dataclass(kw_only=True)
class NullSpaceEditor(LocateThenEdit):
    """Least squares in a null space; a method defines the space of a spectrum."""

    threshold: float = 0.02
    """Eigenvalue below which a direction counts as null."""
    ridge: float = 10.0
    """Multiple of the identity inside the null space; a larger one gives smaller updates."""

    @abstractmethod
    def space(self, spectrum: Spectrum) -> FreeSpace:
        """What is preserved of the keys with these second moments."""

    def preserve(self, model: Model, report: Report = silent) -> dict[int, Preserved]:
        """The null space of the corpus' keys in every layer.

        Raises:
            ConfigError: if no direction is null.
        """
        spaces: dict[int, Preserved] = {}
        for layer, spectrum in self.moments.spectra(model, self.layers, report).items():
            self._check_width(model, layer, spectrum.vectors)
            if bool((spectrum.values >= self.threshold).all()):
                raise ConfigError(
                    f"editor.threshold={self.threshold} lies below every eigenvalue of the second moment of "
                    f"layer {layer} (the smallest is {float(spectrum.values[0]):.3g}): no direction is free"
                )
            spaces[layer] = self.space(spectrum)
        return spaces

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """The update, with the share of null directions as a mean over the layers."""
        edit = super().edit(model, facts)
        ranks = [space.rank for space in self._preserved.values() if isinstance(space, FreeSpace)]
        width = model.weight(SITE, self.layers[0]).shape[1]
        null = sum(ranks) / len(ranks) / width
        return replace(edit, diagnostics={**edit.diagnostics, "null_space_share": null})

    def solve(self, preserved: Preserved, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """Δ = R Kᵀ (A + K Kᵀ)⁻¹ with A as the null space has it."""
        left, right = least_squares(preserved, keys.mean, residual)
        return Delta(left=left, right=right)

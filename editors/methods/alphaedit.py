"""AlphaEdit: MEMIT inside the null space of the preserved keys.

Δ = R Kᵀ P (P (K Kᵀ + S) P + ridge I)⁻¹ with P = I − U Uᵀ, U the eigenvectors of the keys' second moment C
whose eigenvalue is at least `threshold`, and S = Σ K Kᵀ of earlier edits with the regularizer `history`,
as in the published method; their keys are measured again on the edited weights. So Δ leaves
every key in the span of U untouched. The threshold is absolute: the null share of the space depends on the
scale of a model's activations, and is reported with every edit.

Source: Fang et al. 2025 (arXiv 2410.02355) and its code, which solves the same system in float32 without
using its symmetry; ours is float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from editors.base import Edit
from editors.data import Fact
from editors.errors import ConfigError
from editors.locate.base import LocateThenEdit
from editors.locate.keys import Keys
from editors.models.model import Model
from editors.moments.moment_sources import SITE
from editors.phases import Report, silent
from editors.solvers import NullSpace, Preserved, least_squares
from editors.updates import Delta


@dataclass(kw_only=True)
class AlphaEdit(LocateThenEdit):
    """Least squares in the null space of the preserved keys."""

    remembered: ClassVar[Literal["before", "after"] | None] = "after"

    threshold: float = 0.02
    """Eigenvalue of C below which a direction counts as null."""
    ridge: float = 10.0
    """L₂, multiple of the identity inside the null space; a larger one gives smaller updates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ridge > 0 or not self.threshold > 0:
            raise ConfigError(
                f"editor.ridge={self.ridge} and editor.threshold={self.threshold} have to be positive"
            )

        if self.preservation_weight != 1.0:
            raise ConfigError(
                f"editor.preservation_weight={self.preservation_weight}, but AlphaEdit preserves by its "
                f"threshold and has no such weight; drop it"
            )

    @property
    def insertion_remedy(self) -> str:
        """The size of the null space and the ridge inside it."""
        return (
            f"raise editor.threshold ({self.threshold:g}), lower editor.ridge ({self.ridge:g}) or edit more "
            f"blocks (layers.edit={list(self.layers)})"
        )

    def preserve(self, model: Model, report: Report = silent) -> dict[int, Preserved]:
        """The directions of C with large eigenvalues.

        Raises:
            ConfigError: if no direction is null.
        """
        spaces: dict[int, Preserved] = {}
        for layer, spectrum in self.moments.spectra(model, self.layers, report).items():
            self._check_width(model, layer, spectrum.vectors)
            known = spectrum.values >= self.threshold
            if bool(known.all()):
                raise ConfigError(
                    f"editor.threshold={self.threshold} lies below every eigenvalue of the second moment of "
                    f"layer {layer} (the smallest is {float(spectrum.values[0]):.3g}): no direction is free"
                )
            spaces[layer] = NullSpace(spectrum.vectors[:, known], self.ridge + self.added_ridge)
        return spaces

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """The update, with the share of null directions as a mean over the layers."""
        edit = super().edit(model, facts)
        shares = [space.rank for space in self._preserved.values() if isinstance(space, NullSpace)]
        width = model.weight(SITE, self.layers[0]).shape[1]
        null = sum(shares) / len(shares) / width
        return replace(edit, diagnostics={**edit.diagnostics, "null_space_share": null})

    def solve(self, preserved: Preserved, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """Δ = R Kᵀ (A + K Kᵀ)⁻¹ with A = ridge I + S in the null space."""
        left, right = least_squares(preserved, keys.mean, residual)
        return Delta(left=left, right=right)

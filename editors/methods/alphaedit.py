"""AlphaEdit: MEMIT inside the null space of the preserved keys.

Δ = R Kᵀ P (P (K Kᵀ + S) P + ridge I)⁻¹ with P = I − U Uᵀ, U the eigenvectors of the keys' second moment C
whose eigenvalue is at least `threshold`, and S = Σ K Kᵀ of earlier edits with the regularizer `history`,
as in the published method; their keys are measured again on the edited weights. So Δ leaves
every key in the span of U untouched. The threshold is absolute: the null share of the space depends on the
scale of a model's activations, and is reported with every edit.

Source: Fang et al. 2025 (arXiv 2410.02355) and its code, which solves the same system in float32 without
using its symmetry; ours is float64.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from editors.errors import ConfigError
from editors.locate.null_space import NullSpaceEditor
from editors.moments.moment_sources import Spectrum
from editors.solvers import FreeSpace, NullSpace


@dataclass(kw_only=True)
class AlphaEdit(NullSpaceEditor):
    """Least squares in the null space of the preserved keys."""

    remembered: ClassVar[Literal["before", "after"] | None] = "after"

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

    def space(self, spectrum: Spectrum) -> FreeSpace:
        """The directions of C with large eigenvalues, and A = ridge I + S outside of them."""
        known = spectrum.values >= self.threshold
        return NullSpace(spectrum.vectors[:, known], self.ridge + self.added_ridge)

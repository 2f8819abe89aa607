"""BetaEdit: MEMIT inside a null space that is found anew as edits accumulate.

Δ = R Kᵀ P (P (K Kᵀ + S + λp C) P + ridge I)⁻¹, with S = Σ K Kᵀ of earlier edits (regularizer `history`) and P
the projection on the eigenvectors of M whose eigenvalue is below `threshold`. At first M = C, as in
AlphaEdit; after every `refresh` facts M = (S / n + λp C) / (λp + 1), with n facts so far: from then on, what
edits have written cannot be changed either.

Source: BetaEdit (arXiv 2605.09285) and its code, which solves the same system in float32 without using its
symmetry; ours is float64. Deviation: the published run ends with an update longer than 20 √n; ours goes on.
"""

from dataclasses import dataclass
from typing import ClassVar

from editors.errors import check_positive
from editors.locate.null_space import NullSpaceEditor
from editors.moments.moment_sources import Spectrum
from editors.solvers import FreeSpace, RefreshedNullSpace


@dataclass(kw_only=True)
class BetaEdit(NullSpaceEditor):
    """Least squares in the directions that neither the corpus nor earlier edits use."""

    is_least_squares: ClassVar[bool] = False  # of one problem: each null space makes another one of it

    refresh: int = 1000
    """τ, the number of facts after which the null space is found anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("editor", threshold=self.threshold, ridge=self.ridge, refresh=self.refresh)

    @property
    def insertion_remedy(self) -> str:
        """The size of the null space, and what weighs against the facts inside it."""
        return (
            f"raise editor.threshold ({self.threshold:g}), lower editor.preservation_weight "
            f"({self.preservation_weight:g}) or edit more blocks (layers.edit={list(self.layers)})"
        )

    def space(self, spectrum: Spectrum) -> FreeSpace:
        """The null space of C at first, and A = λp C + S + ridge I inside of it."""
        moment = (spectrum.vectors * spectrum.values) @ spectrum.vectors.T
        return RefreshedNullSpace(
            moment, weight=self.preservation_weight, threshold=self.threshold,
            ridge=self.ridge + self.added_ridge, every=self.refresh,
        )  # fmt: skip

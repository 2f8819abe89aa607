"""BetaEdit: MEMIT inside a null space that is found anew as edits accumulate.

Δ = R Kᵀ P (P (K Kᵀ + S + λp C) P + ridge I)⁻¹, with S = Σ K Kᵀ of earlier edits (regularizer `history`) and P
the projection on the eigenvectors of M whose eigenvalue is below `threshold`. At first M = C, as in
AlphaEdit; after every `refresh` facts M = (S / n + λp C) / (λp + 1), with n facts so far: from then on, what
edits have written cannot be changed either.

Source: BetaEdit (arXiv 2605.09285) and its code, which solves the same system in float32 without using its
symmetry; ours is float64. Deviation: the published run ends with an update longer than 20 √n; ours goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from editors.base import Edit
from editors.data import Fact
from editors.errors import ConfigError, check_positive
from editors.locate.base import LocateThenEdit
from editors.locate.keys import Keys
from editors.models.model import Model
from editors.moments.moment_sources import SITE
from editors.phases import Report, silent
from editors.solvers import Preserved, RefreshedNullSpace, least_squares
from editors.updates import Delta


@dataclass(kw_only=True)
class BetaEdit(LocateThenEdit):
    """Least squares in the directions that neither the corpus nor earlier edits use."""

    threshold: float = 0.02
    """Eigenvalue of M below which a direction counts as null."""
    ridge: float = 10.0
    """λ₂, multiple of the identity inside the null space; a larger one gives smaller updates."""
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

    def preserve(self, model: Model, report: Report = silent) -> dict[int, Preserved]:
        """The null space of the corpus' keys in every layer.

        Raises:
            ConfigError: if no direction is null.
        """
        spaces: dict[int, Preserved] = {}
        for layer, spectrum in self.moments.spectra(model, self.layers, report).items():
            self._check_width(model, layer, spectrum.vectors)
            if float(spectrum.values[0]) >= self.threshold:
                raise ConfigError(
                    f"editor.threshold={self.threshold} lies below every eigenvalue of the second moment of "
                    f"layer {layer} (the smallest is {float(spectrum.values[0]):.3g}): no direction is free"
                )
            moment = (spectrum.vectors * spectrum.values) @ spectrum.vectors.T
            spaces[layer] = RefreshedNullSpace(
                moment, weight=self.preservation_weight, threshold=self.threshold,
                ridge=self.ridge + self.added_ridge, every=self.refresh,
            )  # fmt: skip
        return spaces

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """The update, with the share of null directions as a mean over the layers."""
        edit = super().edit(model, facts)
        ranks = [space.rank for space in self._preserved.values() if isinstance(space, RefreshedNullSpace)]
        share = sum(ranks) / len(ranks) / model.weight(SITE, self.layers[0]).shape[1]
        return replace(edit, diagnostics={**edit.diagnostics, "null_space_share": share})

    def solve(self, preserved: Preserved, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """Δ = R Kᵀ (A + K Kᵀ)⁻¹ with A = λp C + S + ridge I in the null space."""
        left, right = least_squares(preserved, keys.mean, residual)
        return Delta(left=left, right=right)

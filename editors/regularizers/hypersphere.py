"""SPHERE: a weaker update along the principal directions of the rows of the unedited matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from editors.errors import ConfigError
from editors.models.model import Model
from editors.regularizers.base import Point, Regularizer, check_share, damp_inputs, smallest_count
from editors.updates import Delta, Site


@dataclass(kw_only=True)
class Hypersphere(Regularizer):
    """Weakens an update along the principal directions of the unedited matrix's rows (SPHERE).

    With the rows of W₀ scaled to length one, Ŵ, and U_r the fewest eigenvectors of ŴᵀŴ that hold `energy` of
    its trace: Δ ← Δ (I − strength · U_r U_rᵀ). This keeps the rows evenly spread over the sphere.

    Source: arXiv 2510.01172 (η = `energy`, α = `strength`). Its public code projects the output side of
    GPT-2's transposed matrices; here it is always the input side.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 1

    energy: float = 0.5
    """Share of the trace that the weakened directions hold; a larger one weakens more directions."""
    strength: float = 0.5
    """Removed share of the update along these directions; 1 removes it entirely."""
    _bases: dict[Site, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_share("hypersphere.energy", self.energy)
        if not 0 < self.strength <= 1:
            raise ConfigError(
                f"regularizer.hypersphere.strength={self.strength}, but it has to be above 0 and at most 1"
            )

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Store the principal directions."""
        for site in sites:
            rows = torch.nn.functional.normalize(model.current(site).double(), dim=1)
            _, values, right = torch.linalg.svd(rows, full_matrices=False)
            self._bases[site] = right[: smallest_count(values**2, self.energy)].T.clone()

    def project(self, site: Site, delta: Delta) -> Delta:
        """Δ (I − α U_r U_rᵀ)."""
        return damp_inputs(delta, self._bases[site], self.strength)

"""REVIVE: no change in the dominant singular subspace of the unedited matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from editors.models.model import Model
from editors.regularizers.base import (
    Point,
    Regularizer,
    check_share,
    fewest,
    inputs_weakened,
    outputs_weakened,
)
from editors.updates import Delta, Site


@dataclass(kw_only=True)
class SubspaceGuard(Regularizer):
    """Removes the part of an update in the dominant singular subspace of the unedited matrix (REVIVE).

    With W₀ = U Σ Vᵀ and k the fewest directions that hold `energy` of ‖W₀‖²_F, every component u_i v_jᵀ with
    i ≤ k or j ≤ k is removed: Δ ← (I − U_k U_kᵀ) Δ (I − V_k V_kᵀ).

    Source: arXiv 2601.11042. Its code is not public; measuring energy by σ² is our reading.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 0

    energy: float = 0.1
    """Share of ‖W₀‖²_F that is protected (our choice); a larger one protects more directions."""
    _bases: dict[Site, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_share("subspace_guard.energy", self.energy)

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Store the dominant directions."""
        for site in sites:
            left, values, right = torch.linalg.svd(model.current(site).double(), full_matrices=False)
            count = fewest(values**2, self.energy)
            self._bases[site] = left[:, :count].clone(), right[:count].T.clone()

    def project(self, site: Site, delta: Delta) -> Delta:
        """Δ without the dominant directions on either side."""
        outputs, inputs = self._bases[site]
        return inputs_weakened(outputs_weakened(delta, outputs, 1.0), inputs, 1.0)

"""REVIVE: keep updates out of the dominant singular subspace of the unedited matrix."""

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
    damp_inputs,
    damp_outputs,
    smallest_count,
)
from editors.updates import Delta, Site


@dataclass(kw_only=True)
class SubspaceGuard(Regularizer):
    """Removes the part of an update in the dominant singular subspace of the unedited matrix (REVIVE).

    With W₀ = U Σ Vᵀ, k is the smallest number of singular directions whose singular values sum to at least
    the share `energy` of all, Σσ. Every component u_i v_jᵀ with i ≤ k or j ≤ k is removed:
    Δ ← (I − U_k U_kᵀ) Δ (I − V_k V_kᵀ).

    Source: arXiv 2601.11042, whose energy is Σσ and not Σσ²; no code is published.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 0

    energy: float = 0.1
    """Share of Σσ that is protected (0.1 is our choice); larger values protect more directions and weaken the
    edits."""
    _bases: dict[Site, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    """U_k (outputs × k) and V_k (inputs × k) of each site."""

    def __post_init__(self) -> None:
        check_share("subspace_guard.energy", self.energy)

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Compute and store the dominant singular vectors of each matrix.

        Called before the first edit, while the weights are unedited.
        """
        for site in sites:
            left, values, right = torch.linalg.svd(model.current(site).double(), full_matrices=False)
            rank = smallest_count(values, self.energy)
            self._bases[site] = left[:, :rank].clone(), right[:rank].T.clone()

    def project(self, site: Site, delta: Delta) -> Delta:
        """(I − U_k U_kᵀ) Δ (I − V_k V_kᵀ): Δ without its components along the dominant directions."""
        left_basis, right_basis = self._bases[site]
        # remove completely
        return damp_inputs(damp_outputs(delta, left_basis, strength=1.0), right_basis, strength=1.0)

"""Regularizers that keep an update out of a subspace of the unedited matrix; the update stays factored."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from editors.errors import ConfigError
from editors.locate.regularizers import Point, Regularizer
from editors.model.deltas import Delta, Site
from editors.model.model import Model


@dataclass(kw_only=True)
class SubspaceGuard(Regularizer):
    """Drops what an update does in the dominant singular subspace of the unedited matrix (REVIVE).

    With W₀ = U Σ Vᵀ and k the fewest directions that hold `energy` of ‖W₀‖²_F, every component u_i v_jᵀ with
    i ≤ k or j ≤ k goes: Δ ← (I − U_k U_kᵀ) Δ (I − V_k V_kᵀ).

    Source: arXiv 2601.11042. Its code is not public; measuring energy by σ² is our reading.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 0

    energy: float = 0.1
    """Share of ‖W₀‖²_F that is protected; ours."""
    _bases: dict[Site, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_share("subspace_guard.energy", self.energy)

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Keep the dominant directions."""
        for site in sites:
            left, values, right = torch.linalg.svd(model.current(site).double(), full_matrices=False)
            count = _fewest(values**2, self.energy)
            self._bases[site] = left[:, :count].clone(), right[:count].T.clone()

    def project(self, site: Site, delta: Delta) -> Delta:
        """Δ without the dominant directions on either side."""
        outputs, inputs = self._bases[site]
        return _inputs_weakened(_outputs_weakened(delta, outputs, 1.0), inputs, 1.0)


@dataclass(kw_only=True)
class Hypersphere(Regularizer):
    """Weakens an update along the principal directions of the unedited matrix's rows (SPHERE).

    With the rows of W₀ scaled to length one, Ŵ, and U_r the fewest eigenvectors of ŴᵀŴ that hold `energy` of
    its trace: Δ ← Δ (I − strength · U_r U_rᵀ). So the rows stay as evenly spread over the sphere.

    Source: arXiv 2510.01172 (η = `energy`, α = `strength`). Its public code takes the other side for GPT-2's
    transposed matrices; here it is always the input side.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 1

    energy: float = 0.5
    strength: float = 0.5
    _bases: dict[Site, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_share("hypersphere.energy", self.energy)
        if not 0 < self.strength <= 1:
            raise ConfigError(
                f"regularizer.hypersphere.strength={self.strength}, but it has to be above 0 and at most 1"
            )

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Keep the principal directions."""
        for site in sites:
            rows = torch.nn.functional.normalize(model.current(site).double(), dim=1)
            _, values, right = torch.linalg.svd(rows, full_matrices=False)
            self._bases[site] = right[: _fewest(values**2, self.energy)].T.clone()

    def project(self, site: Site, delta: Delta) -> Delta:
        """Δ (I − α U_r U_rᵀ)."""
        return _inputs_weakened(delta, self._bases[site], self.strength)


def _outputs_weakened(delta: Delta, basis: Float[Tensor, "out k"], strength: float) -> Delta:
    """(I − strength · B Bᵀ) Δ."""
    basis = basis.to(delta.left)
    return replace(delta, left=delta.left - strength * basis @ (basis.T @ delta.left))


def _inputs_weakened(delta: Delta, basis: Float[Tensor, "in k"], strength: float) -> Delta:
    """Δ (I − strength · B Bᵀ)."""
    basis = basis.to(delta.left)
    if delta.right is None:
        return replace(delta, left=delta.left - strength * (delta.left @ basis) @ basis.T)
    return replace(delta, right=delta.right - strength * basis @ (basis.T @ delta.right))


def _fewest(shares: Float[Tensor, " direction"], energy: float) -> int:
    """How many of the largest shares hold `energy` of their sum."""
    return int((shares.cumsum(dim=0) < energy * shares.sum()).sum()) + 1


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"regularizer.{name}={value}, but it has to lie between 0 and 1")

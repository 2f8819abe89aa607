"""PMET: attention and MLP are shifted together, and only what the MLP should write is inserted.

The targets are found by one optimiser over δ_attn and δ_mlp inside the last edited block, each bounded by its
own reference; where attention feeds the MLP (GPT-2, Llama) this is another problem than shifting the block.
δ_attn is then discarded. The residual is that of the MLP's output, and a layer takes 1 / √(layers left) of
it: Δ = R Kᵀ (K Kᵀ + λp C)⁻¹.

Source: Li et al. 2024 (arXiv 2308.08742) and xpq-tech/PMET, `compute_zs`, whose published configurations
write only the MLP's matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.locate.base import LocateThenEdit
from editors.locate.keys import Keys
from editors.locate.shifted_forward import Said, Shifted
from editors.locate.solvers import Preserved, least_squares
from editors.locate.targets import TargetOptimizer
from editors.updates import Delta


@dataclass(frozen=True, kw_only=True)
class JointTargets(TargetOptimizer):
    """One Adam over a shift of the attention's and one of the MLP's output.

    loss = f · (mean −log P) + kl_weight · KL + decay · (‖δ_mlp‖ / ‖mlp_init‖² + ‖δ_attn‖ / ‖attn_init‖²)

    with f = nll_weight, or a tenth of it after an evaluation at which the target was the first choice
    everywhere; there the target is final if kl_weight · KL ≤ drift_threshold. With the regularizer `mpes` it
    is final as soon as either says so.
    """

    inside: ClassVar[bool] = True

    nll_weight: float = 1.0
    drift_threshold: float = 0.01

    @property
    def parts(self) -> Sequence[str]:
        """Attention and MLP."""
        return ("attention", "mlp")

    def fit(self, batch: Shifted, said: Said, reached: Bool[Tensor, " active"]) -> Float[Tensor, " active"]:
        """f · (mean −log P)."""
        factor = torch.where(reached, 0.1, 1.0).to(said.chosen)
        return self.nll_weight * factor * batch.likelihood(said)

    def settled(
        self, drift: Float[Tensor, " active"], correct: Bool[Tensor, "active template"]
    ) -> Bool[Tensor, " active"]:
        """First choice everywhere, and the anchor hardly moved."""
        return correct.all(dim=1) & (drift <= self.drift_threshold)


@dataclass(kw_only=True)
class PMET(LocateThenEdit):
    """MEMIT's solution for the MLP's residual, spread by square roots."""

    measured_at: ClassVar[str] = "mlp"

    def spread(self, layers_left: int) -> float:
        """1 / √(layers left)."""
        return layers_left**-0.5

    def solve(self, preserved: Preserved, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """Δ = R Kᵀ (A + K Kᵀ)⁻¹, rounded to float32 as in the published code."""
        left, right = least_squares(preserved, keys.mean, residual)
        return Delta(left=left, right=right, dtype=torch.float32)

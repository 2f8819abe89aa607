"""PMET: attention and MLP are shifted together, and only the target of the MLP is inserted.

The targets are found by one optimiser over δ_attn and δ_mlp inside the last edited block, each bounded by its
own reference; if attention feeds the MLP (GPT-2, Llama), this is another problem than shifting the block.
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
from editors.locate.shifted_forward import Predictions, ShiftedForward
from editors.locate.targets import TargetOptimizer
from editors.solvers import Preserved, least_squares
from editors.updates import Delta


@dataclass(frozen=True, kw_only=True)
class JointTargets(TargetOptimizer):
    """One Adam over a shift of the attention's and one of the MLP's output.

    loss = f · (mean −log P) + kl_weight · KL + decay · (‖δ_mlp‖ / ‖mlp_init‖² + ‖δ_attn‖ / ‖attn_init‖²)

    with f = nll_weight, or a tenth of it after an evaluation at which the target was the first choice
    everywhere; such a target is final if kl_weight · KL ≤ drift_threshold. With the regularizer `mpes` either
    condition makes it final.
    """

    inside: ClassVar[bool] = True

    nll_weight: float = 1.0
    """Weight of the likelihood of the new object."""
    drift_threshold: float = 0.01
    """Largest kl_weight · KL of a final target."""

    @property
    def parts(self) -> Sequence[str]:
        """Attention and MLP; the target is that of the MLP."""
        return ("attention", "mlp")

    def fit(
        self, batch: ShiftedForward, predictions: Predictions, reached: Bool[Tensor, " active"]
    ) -> Float[Tensor, " active"]:
        """f · (mean −log P)."""
        factor = torch.where(reached, 0.1, 1.0).to(predictions.targets)
        return self.nll_weight * factor * batch.likelihood(predictions)

    def settled(
        self, drift: Float[Tensor, " active"], correct: Bool[Tensor, "active template"]
    ) -> Bool[Tensor, " active"]:
        """The target is the first choice everywhere, and the anchor's drift is below its threshold."""
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

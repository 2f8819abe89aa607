"""MEMIT: many facts at once, spread over a range of layers.

Δ = R Kᵀ (λp C + K Kᵀ)⁻¹ at each layer, with R the part of (target − block output) that the layer takes.
With the regularizers `history`, `mpes` and `norm_constraint` it is ENCORE, which has no code of its own.

Source: Meng et al. 2023 (arXiv 2210.07229); ENCORE: Gupta et al. 2025 (arXiv 2502.01636).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editors.locate.base import Keys, LocateThenEdit
from editors.solvers import Preserved, least_squares
from editors.updates import Delta


@dataclass(kw_only=True)
class MEMIT(LocateThenEdit):
    """Least squares on averaged keys; the update is rounded to float32, as in the published code."""

    def solve(self, preserved: Preserved, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """Δ = R Kᵀ (A + K Kᵀ)⁻¹."""
        left, right = least_squares(preserved, keys.mean, residual)
        return Delta(left=left, right=right, dtype=torch.float32)

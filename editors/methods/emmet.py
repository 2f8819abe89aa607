"""EMMET: the values of a batch of facts are met exactly, ROME's constraint for many keys.

Δ = R (KᵀA⁻¹K + ridge I)⁻¹ KᵀA⁻¹ with A = λp C. With the ridge it is MEMIT for λ = ridge · λp; without it and
with one fact it is r-ROME. The published code adds the ridge only if a batch has more than one fact.

Source: Gupta et al. 2024 (arXiv 2403.14236) and scalable-model-editing/unified-model-editing.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from editors.errors import ConfigError
from editors.locate.base import LocateThenEdit
from editors.locate.keys import Keys
from editors.solvers import Preserved, equality
from editors.updates import Delta


@dataclass(kw_only=True)
class EMMET(LocateThenEdit):
    """Equality on averaged keys, softened by a ridge."""

    is_least_squares: ClassVar[bool] = False

    ridge: float = 0.1
    """Ridge on KᵀA⁻¹K for batches of more than one fact; 0 meets every value exactly, or is an error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ridge < 0:
            raise ConfigError(f"editor.ridge={self.ridge}, but a ridge cannot be negative")

    @property
    def insertion_remedy(self) -> str:
        """The ridge, in a batch of more than one fact, and the blocks."""
        ridge = f"lower editor.ridge ({self.ridge:g}) or " if self.ridge else ""
        return f"{ridge}edit more blocks (layers.edit={list(self.layers)})"

    def solve(self, preserved: Preserved, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """Δ = R (KᵀA⁻¹K + ridge I)⁻¹ KᵀA⁻¹."""
        ridge = self.ridge if residual.shape[1] > 1 else 0.0
        left, right = equality(preserved, keys.mean, residual, ridge)
        return Delta(left=left, right=right, dtype=torch.float32)

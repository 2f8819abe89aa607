"""What locate-then-edit finds for a batch of facts, before and after regularizers."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from editors.base import Edit
from editors.updates import WeightUpdate


@dataclass(frozen=True, kw_only=True)
class LocatedEdit(Edit):
    """An edit and its update before regularizers changed it."""

    solved: WeightUpdate
    residuals: Mapping[int, Float[Tensor, "out n"]]
    """What each block's update was solved to add to its output, in float64."""


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """The solution of all blocks."""

    goals: Mapping[int, Tensor]
    """Targets by block."""
    update: WeightUpdate
    keys: dict[int, Tensor]
    residuals: dict[int, Tensor]
    first: Float[Tensor, " n"]
    """Norms of the whole residuals at the first block."""

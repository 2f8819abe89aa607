"""λn ‖Δ‖²_F in the objective: λn I in the normal equations."""

from dataclasses import dataclass
from typing import ClassVar

from editors.errors import check_positive
from editors.regularizers.base import Point, Regularizer


@dataclass(frozen=True, kw_only=True)
class NormConstraint(Regularizer):
    """λn ‖Δ‖²_F in the objective: λn I in the normal equations.

    It damps the growth of one update and does not bound the drift over many.
    Source: ENCORE (arXiv 2502.01636), equation 8.
    """

    point: ClassVar[Point] = "normal equations"

    weight: float = 10.0
    """λn; a larger one gives smaller updates that change the target less."""

    def __post_init__(self) -> None:
        check_positive("regularizer.norm_constraint", weight=self.weight)

    @property
    def ridge(self) -> float:
        """The value of `weight`."""
        return self.weight

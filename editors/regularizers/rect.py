"""RECT: only the entries with the largest change relative to the weight are written."""

from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from editors.errors import ConfigError
from editors.regularizers.base import Point, Progress, Regularizer
from editors.updates import Delta, Site


@dataclass(frozen=True, kw_only=True)
class Rect(Regularizer):
    """Writes only the entries with the largest change relative to the weight (RECT).

    An entry is written if |Δ / (W + 1e-8)| is among the largest `keep` of its matrix. The published formula
    uses the signed weight and divides by zero at W = −1e-8; `absolute` divides by |W| + 1e-8 instead.

    Source: arXiv 2401.04700 and jianghoucheng/AlphaEdit, which keeps the top 40 %.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 2

    keep: float = 0.4
    """Share of the entries that is written; 1 writes all."""
    absolute: bool = False
    """Whether to divide by |W| + 1e-8 instead of the published W + 1e-8."""

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ConfigError(f"regularizer.rect.keep={self.keep}, but it has to be above 0 and at most 1")

    def finish(self, site: Site, delta: Delta, weight: Float[Tensor, "out in"], progress: Progress) -> Delta:
        """Δ with the other entries at zero."""
        dense = delta.dense()
        base = weight.to(dense)
        relative = dense.abs() / ((base.abs() if self.absolute else base) + 1e-8).abs()
        count = max(1, round(self.keep * relative.numel()))
        least = relative.flatten().kthvalue(relative.numel() - count + 1).values
        return replace(delta, left=dense.where(relative >= least, 0.0), right=None)

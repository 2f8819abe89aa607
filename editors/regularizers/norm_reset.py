"""Rescaling of the edited matrix to its unedited norm at regular intervals: W ← W ‖W₀‖ / ‖W‖."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from editors.models.model import Model
from editors.regularizers.base import Point, Progress, Regularizer, check_every
from editors.updates import Delta, Site


@dataclass(kw_only=True)
class NormReset(Regularizer):
    """Rescales the edited matrix to its unedited norm every `every` edits: W ← W ‖W₀‖ / ‖W‖.

    The edits keep their directions and shrink together with the rest of the matrix. This tests whether norm
    growth alone causes the damage.
    """

    point: ClassVar[Point] = "weight"

    every: int = 1
    """Number of edits between two resets; a multiple of the batch size resets after whole batches."""
    _norms: dict[Site, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_every("norm_reset", self.every)

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Store the unedited norms."""
        self._norms = {site: float(model.current(site).double().norm()) for site in sites}

    def finish(self, site: Site, delta: Delta, weight: Float[Tensor, "out in"], progress: Progress) -> Delta:
        """The update that leads to (W + Δ) ‖W₀‖ / ‖W + Δ‖ if a reset is due, otherwise Δ."""
        if not progress.passes(self.every):
            return delta
        written = weight.double() + delta.dense().to(weight).double()
        return Delta(left=written * (self._norms[site] / written.norm()) - weight.double())

"""Scales the edited matrix back to its unedited norm, every so many edits: W ← W ‖W₀‖ / ‖W‖."""

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
    """Scales the edited matrix back to the norm it had unedited, every so many edits: W ← W ‖W₀‖ / ‖W‖.

    What an edit wrote keeps its direction and loses size, and so does everything else: the check whether norm
    growth alone does the damage.
    """

    point: ClassVar[Point] = "weight"

    every: int = 1
    """Edits between two resets."""
    _norms: dict[Site, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_every("norm_reset", self.every)

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Keep the unedited norms."""
        self._norms = {site: float(model.current(site).double().norm()) for site in sites}

    def finish(self, site: Site, delta: Delta, weight: Float[Tensor, "out in"], progress: Progress) -> Delta:
        """The update that leads to (W + Δ) ‖W₀‖ / ‖W + Δ‖, where a reset is due."""
        if not progress.passes(self.every):
            return delta
        written = weight.double() + delta.dense().to(weight).double()
        return Delta(left=written * (self._norms[site] / written.norm()) - weight.double())

"""The control that takes steps of the real length where keys are rare.

With C = E[k kᵀ] the second moment of keys and G Gaussian, the step is

    G C⁻¹ ‖Δ‖ / ‖G C⁻¹‖

and for a thin Δ, A (C⁻¹ B)ᵀ with Gaussian A and B as thin as its factors. It lies mostly along directions in
which keys have little energy, as the updates of locate-then-edit methods do, whose key side is
(λ C + K Kᵀ)⁻¹ K; its output side is random. If the growth of the norm did the damage, it would do as much.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editors.controls.controls import Control
from editors.controls.noise import gaussian, generator_for
from editors.errors import ConfigError
from editors.models.model import Model
from editors.moments.moment_sources import SITE, MomentSource
from editors.updates import Delta, Site, WeightUpdate


@dataclass(kw_only=True)
class WhitenedDirection(Control):
    """W + G C⁻¹ ‖Δ‖_F / ‖G C⁻¹‖_F, for down projections.

    Memory: a float64 factor of C, of the size of the squared width of a key, for every edited block.
    """

    name: str = "whitened_direction"
    moments: MomentSource
    """Second moments of the keys."""
    seed: int = 0
    """Seed of G, together with the number of edits and the site."""
    ridge: float = 1e-6
    """Added to C as a multiple of its mean eigenvalue, so that it can be inverted."""
    _factors: Mapping[int, Float[Tensor, "in in"]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ConfigError(f"control.ridge={self.ridge} has to be positive")

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Read the second moments of the edited blocks and factor them.

        Raises:
            ConfigError: for an edited matrix other than a down projection.
        """
        if others := sorted({site.name for site in edited} - {SITE}):
            raise ConfigError(
                f"control=whitened_direction: the run edits {' and '.join(others)}, but second moments are "
                f"those of the inputs of {SITE}: choose another control"
            )
        layers = sorted({site.layer for site in edited})
        moments = self.moments.load(model, layers)
        self._factors = {layer: self._factor(moments[layer].to(model.device)) for layer in layers}

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """Changes of the same norms where keys are rare."""
        return {site: self._whitened(site, delta, edits) for site, delta in update.items()}

    def _whitened(self, site: Site, delta: Delta, edits: int) -> Delta:
        generator = generator_for(self.seed, edits, site)
        left = gaussian(delta.left, generator)
        if delta.right is None:
            drawn = replace(delta, left=self._solved(left.T, site).T)
        else:
            drawn = replace(delta, left=left, right=self._solved(gaussian(delta.right, generator), site))
        return replace(drawn, left=drawn.left * (delta.norm() / drawn.norm()))

    def _solved(self, keys: Float[Tensor, "in column"], site: Site) -> Float[Tensor, "in column"]:
        """C⁻¹ of every column, in the precision of the columns."""
        return torch.cholesky_solve(keys.double(), self._factors[site.layer].to(keys.device)).to(keys)

    def _factor(self, moment: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
        """The Cholesky factor of C + ridge · tr(C)/d · I."""
        moment = moment.double()
        shift = self.ridge * moment.diagonal().mean()
        return torch.linalg.cholesky(moment + shift * torch.eye(len(moment)).to(moment))

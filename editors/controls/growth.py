"""Growth without knowledge: every edit multiplies the norm of a matrix by a factor f, for any fact.

  random  W + G ‖W‖ √(f² − 1) / ‖G‖, G a Gaussian matrix made orthogonal to W, so that ‖W′‖ = f ‖W‖ exactly
  scaled  f W

G is dense rather than of rank one: a rank-one step of that length would put all growth into one singular
value and test the spectral norm; a dense Gaussian spreads it over all directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from editors.base import Edit, Editor
from editors.controls.noise import gaussian, generator_for
from editors.data import Fact
from editors.errors import ConfigError, NumericsError
from editors.models.gradients import check_sites
from editors.models.model import Model
from editors.phases import Report, silent
from editors.updates import Delta, Site, sites_of


@dataclass(kw_only=True)
class Growth(Editor):
    """Multiplies ‖W‖_F by `factor` for every fact of a batch, without reading the facts."""

    name: str = "growth"
    layers: Sequence[int]
    """Blocks whose matrix grows."""
    site: str = "mlp_down"
    """Name of the matrix."""
    factor: float = 1.1
    """f, growth of the norm per fact."""
    direction: Literal["random", "scaled"] = "random"
    """`random` adds noise orthogonal to W; `scaled` multiplies W."""
    seed: int = 0
    """Seed of the random direction, together with the number of edits and the site."""

    check_every: ClassVar[int] = 0

    def __post_init__(self) -> None:
        least = 1.0 if self.direction == "random" else 0.0
        if not self.factor > least:
            raise ConfigError(
                f"editor.factor={self.factor}, but with editor.direction={self.direction} it has to be above "
                f"{least:g}"
            )

    @property
    def sites(self) -> Sequence[Site]:
        """One matrix of every block."""
        return sites_of(self.layers, [self.site])

    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Check that the model has the matrices."""
        check_sites(model, self.sites, "editor.site")

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: three float64 copies of one matrix, and the update."""
        largest = max(model.current(site).numel() for site in self.sites)
        return 24 * largest + super().memory(model, facts)

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """The change that multiplies ‖W‖ by `factor` once per fact.

        Raises:
            NumericsError: if the matrix is zero or holds NaN or infinity.
        """
        factor = self.factor ** len(facts)
        return Edit(update={site: self._grown(model.current(site), site, factor) for site in self.sites})

    def _grown(self, weight: Float[Tensor, "out in"], site: Site, factor: float) -> Delta:
        before = weight.double()
        norm = before.norm()
        if not bool(norm.isfinite()) or not norm > 0:
            raise NumericsError(
                f"‖W‖ of {site} is {float(norm):.3g} after {self.edits} edits: it cannot grow"
            )
        if self.direction == "scaled":
            return Delta(left=before * (factor - 1))
        noise = gaussian(before, generator_for(self.seed, self.edits, site))
        sideways = noise - before * ((noise * before).sum() / norm**2)
        return Delta(left=sideways * (norm * (factor**2 - 1) ** 0.5 / sideways.norm()))

"""Controls of a replay: what is written instead of the recorded updates, to tell causes of a damage apart.

Δ is a recorded update of a matrix, W the matrix of the replayed model before it, W₀ unedited.

    real               W + Δ
    random_direction   W + G ‖Δ‖ / ‖G‖            as long a step, in a random direction
    norm_kept          (W + Δ) ‖W₀‖ / ‖W + Δ‖     the direction without the growth
    scaled             W g                        the growth without the direction
    spread             W + Δ / √L in all L blocks  as long a step, nowhere in particular
    norm_rescaled      W + Δ, and what reads the residual stream next is scaled back (`norm_gain.py`)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editors.controls.noise import drawn_for, gaussian
from editors.models.model import Model
from editors.update_files import Recorded
from editors.updates import Delta, Site, WeightUpdate, sites_of


@dataclass(kw_only=True)
class Control:
    """The real edits: W + Δ. Others override what differs."""

    name: str = "real"

    def sites(self, edited: Sequence[Site], model: Model) -> Sequence[Site]:
        """The matrices that change, given those that the recorded updates change."""
        return edited

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Keep what is needed of the unedited model, where `edited` are changed by the recorded updates."""

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """What is applied instead of a recorded update, after so many edits; nothing is changed yet."""
        return update

    def follow(self, batch: Recorded) -> None:
        """A recorded update is behind, in this process or in one that was interrupted."""

    def applied(self, model: Model) -> None:
        """An update was applied."""

    def state_dict(self) -> dict[str, Tensor]:
        """What `follow` does not find again."""
        return {}

    def load_state_dict(self, model: Model, state: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken; after `prepare`."""


@dataclass(kw_only=True)
class RandomDirection(Control):
    """W + G ‖Δ‖_F / ‖G‖_F, with G = A Bᵀ of Gaussian A and B as thin as the factors of Δ, or Gaussian itself.

    Of the step its length and rank stay, and its precision; its singular values and directions do not.
    """

    name: str = "random_direction"
    seed: int = 0
    """With the number of edits and the site it determines G."""

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """Random changes of the same norms."""
        return {site: self._drawn(site, delta, edits) for site, delta in update.items()}

    def _drawn(self, site: Site, delta: Delta, edits: int) -> Delta:
        generator = drawn_for(self.seed, edits, site)
        left = gaussian(delta.left, generator)
        right = None if delta.right is None else gaussian(delta.right, generator)
        random = replace(delta, left=left, right=right)
        return replace(random, left=left * (delta.norm() / random.norm()))


@dataclass(kw_only=True)
class NormKept(Control):
    """(W + Δ) ‖W₀‖_F / ‖W + Δ‖_F: the real directions, while the norm stays what it was unedited."""

    name: str = "norm_kept"
    _norms: dict[Site, float] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Keep the unedited norms."""
        self._norms = {site: _norm(model.current(site)) for site in edited}

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """The changes that lead there."""
        return {site: self._kept(model.current(site), site, delta) for site, delta in update.items()}

    def _kept(self, weight: Float[Tensor, "out in"], site: Site, delta: Delta) -> Delta:
        before = weight.double()
        written = before + delta.dense().to(before)
        return Delta(left=written * (self._norms[site] / written.norm()) - before)


@dataclass(kw_only=True)
class Scaled(Control):
    """W g, with g such that ‖W g‖_F is the norm that the real edits have led to: growth without a direction.

    The real matrix W₀ + ΣΔ is followed beside the model, which takes its memory once more.
    """

    name: str = "scaled"
    _real: dict[Site, Tensor] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Copy the unedited matrices, which become the real ones."""
        self._real = {site: _at_least_float32(model.current(site)).clone() for site in edited}

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """W (g − 1)."""
        return {site: self._grown(model.current(site), site, delta) for site, delta in update.items()}

    def follow(self, batch: Recorded) -> None:
        """Add it to the real matrices, as it was added when it was made."""
        for site, delta in batch.update.items():
            self._real[site] += delta.to(self._real[site].device).dense().to(self._real[site])

    def _grown(self, weight: Float[Tensor, "out in"], site: Site, delta: Delta) -> Delta:
        real, before = self._real[site], weight.double()
        wanted = _norm(real + delta.dense().to(real))
        return Delta(left=before * (wanted / before.norm() - 1))


@dataclass(kw_only=True)
class Spread(Control):
    """W + Δ/√L for the same matrix of every one of the L blocks: ‖Δ‖_F in all, but no longer local.

    Of an update of several blocks the sum Σ Δ is spread, scaled so that √Σ‖·‖² stays that of the update.
    """

    name: str = "spread"

    def sites(self, edited: Sequence[Site], model: Model) -> Sequence[Site]:
        """Those of the same name in every block."""
        return sites_of(range(model.depth), list(dict.fromkeys(site.name for site in edited)))

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """The same change of every block."""
        spread: dict[Site, Delta] = {}
        for name in dict.fromkeys(site.name for site in update):
            deltas = [delta for site, delta in update.items() if site.name == name]
            share = _share(deltas, model.depth)
            for layer in range(model.depth):
                spread[Site(name, layer)] = _copied(share, model.weight(name, layer).device)
        return spread


def _share(deltas: Sequence[Delta], depth: int) -> Delta:
    """Σ Δ, as long as the changes are together, over √depth."""
    total = _sum(deltas)
    long, together = total.norm(), sum(delta.square() for delta in deltas) ** 0.5
    return replace(total, left=total.left * (together / (long * depth**0.5) if long else 0.0))


def _copied(delta: Delta, device: torch.device) -> Delta:
    """Memory of its own: a file of a saved state holds no tensor twice."""
    right = None if delta.right is None else delta.right.clone().to(device)
    return replace(delta, left=delta.left.clone().to(device), right=right)


def _sum(deltas: Sequence[Delta]) -> Delta:
    """Σ Δ, thin where all are."""
    first, device = deltas[0], deltas[0].left.device
    parts = [delta.to(device) for delta in deltas]
    rights = [delta.right for delta in parts if delta.right is not None]
    if len(rights) == len(parts):
        left = torch.cat([delta.left for delta in parts], dim=1)
        return replace(first, left=left, right=torch.cat(rights, dim=1))
    return replace(first, left=torch.stack([delta.dense() for delta in parts]).sum(dim=0), right=None)


def _norm(weight: Float[Tensor, "out in"]) -> float:
    return float(weight.double().norm())


def _at_least_float32(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))

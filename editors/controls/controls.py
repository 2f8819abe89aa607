"""Controls of a replay: updates written instead of the recorded ones, to separate causes of damage.

Δ is a recorded update of a matrix, W the matrix of the replayed model before it, W₀ unedited.

    real               W + Δ
    random_direction   W + G ‖Δ‖ / ‖G‖            a step of the same length in a random direction
    norm_kept          (W + Δ) ‖W₀‖ / ‖W + Δ‖     the direction without the growth
    scaled             W g                        the growth without the direction
    grow_all           W g in all L blocks        the growth, but no longer local
    drift_kept         W₀ + a D, D = W + Δ − W₀   the direction with a drift of bounded length
    whitened_direction W + G C⁻¹ ‖Δ‖ / ‖G C⁻¹‖    a step as long, where keys are rare (`whitened.py`)
    rotated            R W, ‖R W − W‖ = ‖Δ‖        a drift as long without any growth (`rotated.py`)
    spread             W + Δ / √L in all L blocks  a step of the same length in all blocks
    norm_rescaled      W + Δ, and the next norm on the residual stream is rescaled (`norm_rescaled.py`)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editors.controls.noise import gaussian, generator_for
from editors.errors import ConfigError
from editors.models.model import Model
from editors.update_files import Recorded
from editors.updates import Delta, Site, WeightUpdate, at_least_float32, sites_of

_TINY = 1e-300
"""Keeps a quotient finite if nothing has drifted."""


@dataclass(kw_only=True)
class Control:
    """The real edits, W + Δ; the base class of the other controls."""

    name: str = "real"
    """The control's name in configurations and results."""

    def sites(self, edited: Sequence[Site], model: Model) -> Sequence[Site]:
        """The matrices that change, given those that the recorded updates change."""
        return edited

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Store reference values of the unedited model; `edited` are the sites of the recorded updates."""

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """The update to apply instead of a recorded one, after so many edits; nothing is changed yet."""
        return update

    def follow(self, batch: Recorded) -> None:
        """Called after each recorded update, in this process or while resuming an interrupted one."""

    def applied(self, model: Model) -> None:
        """Called after an update was applied."""

    def state_dict(self) -> dict[str, Tensor]:
        """State that `follow` cannot reconstruct."""
        return {}

    def load_state_dict(self, model: Model, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state_dict`, after `prepare`."""


@dataclass(kw_only=True)
class RandomDirection(Control):
    """W + G ‖Δ‖_F / ‖G‖_F, with G = A Bᵀ of Gaussian A and B as thin as the factors of Δ, or Gaussian itself.

    The step keeps its length, rank and precision, but not its singular values and directions.
    """

    name: str = "random_direction"
    seed: int = 0
    """Seed of G, together with the number of edits and the site."""

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """Random changes of the same norms."""
        return {site: self._random(site, delta, edits) for site, delta in update.items()}

    def _random(self, site: Site, delta: Delta, edits: int) -> Delta:
        generator = generator_for(self.seed, edits, site)
        left = gaussian(delta.left, generator)
        right = None if delta.right is None else gaussian(delta.right, generator)
        random = replace(delta, left=left, right=right)
        return replace(random, left=left * (delta.norm() / random.norm()))


@dataclass(kw_only=True)
class NormKept(Control):
    """(W + Δ) ‖W₀‖_F / ‖W + Δ‖_F: the real directions with the unedited norm."""

    name: str = "norm_kept"
    _norms: dict[Site, float] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Store the unedited norms."""
        self._norms = {site: _norm(model.current(site)) for site in edited}

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """The changes that lead to these matrices."""
        return {site: self._rescaled(model.current(site), site, delta) for site, delta in update.items()}

    def _rescaled(self, weight: Float[Tensor, "out in"], site: Site, delta: Delta) -> Delta:
        before = weight.double()
        written = before + delta.dense().to(before)
        return Delta(left=written * (self._norms[site] / written.norm()) - before)


@dataclass(kw_only=True)
class Scaled(Control):
    """W g, with g such that ‖W g‖_F equals the norm after the real edits: growth without a direction.

    The real matrix W₀ + ΣΔ is updated beside the model, which needs its memory a second time.
    """

    name: str = "scaled"
    _real: dict[Site, Tensor] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Copy the unedited matrices, to which the real updates are added."""
        self._real = {site: at_least_float32(model.current(site)).clone() for site in edited}

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """W (g − 1)."""
        return {site: self._grown(model.current(site), site, delta) for site, delta in update.items()}

    def follow(self, batch: Recorded) -> None:
        """Add the update to the real matrices, exactly as the recording run did."""
        for site, delta in batch.update.items():
            self._real[site] += delta.to(self._real[site].device).dense().to(self._real[site])

    def _grown(self, weight: Float[Tensor, "out in"], site: Site, delta: Delta) -> Delta:
        real = self._real[site]
        return _of_norm(weight, _norm(real + delta.dense().to(real)))


@dataclass(kw_only=True)
class GrowAll(Scaled):
    """W g for the same matrix of every block: growth that is neither directed nor local.

    The stacked norm of the real matrices gives the common factor, g = √Σ‖W₀ + ΣΔ‖² / √Σ‖W₀‖².
    """

    name: str = "grow_all"
    _norms: dict[Site, float] = field(default_factory=dict, init=False, repr=False)

    def sites(self, edited: Sequence[Site], model: Model) -> Sequence[Site]:
        """The matrices of the same names in every block."""
        return _in_every_block(edited, model)

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Copy the unedited matrices, and store the norms of those of every block."""
        super().prepare(model, edited)
        self._norms = {site: _norm(model.current(site)) for site in self.sites(edited, model)}

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """W (g ‖W₀‖ / ‖W‖ − 1) in every block."""
        after = [
            _norm(real + update[site].dense().to(real)) if site in update else _norm(real)
            for site, real in self._real.items()
        ]
        factor = math.hypot(*after) / math.hypot(*(self._norms[site] for site in self._real))
        return {site: _of_norm(model.current(site), factor * norm) for site, norm in self._norms.items()}


@dataclass(kw_only=True)
class DriftKept(Control):
    """W₀ + a D with D = W + Δ − W₀ and a = min(1, distance · ‖W₀‖ / ‖D‖): edits whose sum stays short.

    As long as the drift is shorter it is real; from then on every edit shortens those before it.
    """

    name: str = "drift_kept"
    distance: float = 0.1
    """Largest ‖W − W₀‖ / ‖W₀‖."""
    _unedited: dict[Site, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.distance > 0:
            raise ConfigError(f"control.distance={self.distance} has to be positive")

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Copy the unedited matrices."""
        self._unedited = {site: at_least_float32(model.current(site)).clone() for site in edited}

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """The changes that lead to these matrices."""
        return {site: self._shortened(model.current(site), site, delta) for site, delta in update.items()}

    def _shortened(self, weight: Float[Tensor, "out in"], site: Site, delta: Delta) -> Delta:
        before, unedited = weight.double(), self._unedited[site].double()
        drift = before + delta.dense().to(before) - unedited
        share = min(1.0, self.distance * float(unedited.norm()) / max(float(drift.norm()), _TINY))
        return delta if share == 1.0 else Delta(left=unedited + share * drift - before)


@dataclass(kw_only=True)
class Spread(Control):
    """W + Δ/√L for the same matrix of every one of the L blocks: ‖Δ‖_F in total, but no longer local.

    For an update of several blocks the sum Σ Δ is spread, scaled so that √Σ‖·‖² equals that of the update.
    """

    name: str = "spread"

    def sites(self, edited: Sequence[Site], model: Model) -> Sequence[Site]:
        """The matrices of the same names in every block."""
        return _in_every_block(edited, model)

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """The same change of every block."""
        spread: dict[Site, Delta] = {}
        for name in dict.fromkeys(site.name for site in update):
            deltas = [delta for site, delta in update.items() if site.name == name]
            share = _share(deltas, model.depth)
            for layer in range(model.depth):
                spread[Site(name, layer)] = _copied(share, model.weight(name, layer).device)
        return spread


def _in_every_block(edited: Sequence[Site], model: Model) -> Sequence[Site]:
    """The matrices of the same names in every block."""
    return sites_of(range(model.depth), list(dict.fromkeys(site.name for site in edited)))


def _of_norm(weight: Float[Tensor, "out in"], norm: float) -> Delta:
    """The change of a matrix, along itself, that gives it this norm."""
    before = weight.double()
    return Delta(left=before * (norm / before.norm() - 1))


def _share(deltas: Sequence[Delta], depth: int) -> Delta:
    """Σ Δ, scaled to the common length √Σ‖Δ‖² of the changes, over √depth."""
    total = _sum(deltas)
    norm, common = total.norm(), sum(delta.square() for delta in deltas) ** 0.5
    return replace(total, left=total.left * (common / (norm * depth**0.5) if norm else 0.0))


def _copied(delta: Delta, device: torch.device) -> Delta:
    """A copy in memory of its own, because safetensors refuses shared tensors in a checkpoint."""
    right = None if delta.right is None else delta.right.clone().to(device)
    return replace(delta, left=delta.left.clone().to(device), right=right)


def _sum(deltas: Sequence[Delta]) -> Delta:
    """Σ Δ, as thin factors if all changes are thin."""
    first, device = deltas[0], deltas[0].left.device
    parts = [delta.to(device) for delta in deltas]
    rights = [delta.right for delta in parts if delta.right is not None]
    if len(rights) == len(parts):
        left = torch.cat([delta.left for delta in parts], dim=1)
        return replace(first, left=left, right=torch.cat(rights, dim=1))
    return replace(first, left=torch.stack([delta.dense() for delta in parts]).sum(dim=0), right=None)


def _norm(weight: Float[Tensor, "out in"]) -> float:
    return float(weight.double().norm())

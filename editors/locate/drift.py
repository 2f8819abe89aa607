"""Regularizers that look at the whole matrix: which entries an update may touch, and how far it may drift."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from editors.errors import ConfigError
from editors.locate.regularizers import Point, Progress, Regularizer
from editors.model.deltas import Delta, Site
from editors.model.model import Model


@dataclass(frozen=True, kw_only=True)
class Rect(Regularizer):
    """Writes only the entries that change most, relative to the weight (RECT).

    An entry is kept where |Δ / (W + 1e-8)| is among the largest `keep` of its matrix. As published the weight
    keeps its sign there, so that W = −1e-8 divides by zero; `absolute` divides by |W| + 1e-8 instead.

    Source: arXiv 2401.04700 and jianghoucheng/AlphaEdit, which keeps the top 40 %.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 2

    keep: float = 0.4
    """Share of the entries that is written."""
    absolute: bool = False

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


@dataclass(kw_only=True)
class Prune(Regularizer):
    """Compresses the large singular values of the whole drift D = W − W₀ (PRUNE).

    With σ₀ the largest singular value of W₀, every σ_i of D above it becomes log σ_i − log σ₀ + σ₀, and the
    matrix becomes W₀ + D′: the drift is replaced, not added to, unlike in two public drivers. Where σ₀ < 1
    that can lie above σ_i, which then stays.

    Source: Ma et al. 2024 (arXiv 2405.16821); the paper prunes once, at the end of the sequence.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 3

    every: int
    """Edits between two prunings; the length of the sequence prunes once, at its end."""
    _unedited: dict[Site, tuple[Tensor, float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_every("prune", self.every)

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Keep the unedited matrices and their largest singular values."""
        for site in sites:
            weight = model.current(site).clone()
            self._unedited[site] = weight, float(torch.linalg.matrix_norm(weight.double(), ord=2))

    def finish(self, site: Site, delta: Delta, weight: Float[Tensor, "out in"], progress: Progress) -> Delta:
        """The update that leads to W₀ + D′, where pruning is due."""
        if not progress.passes(self.every):
            return delta
        unedited, largest = self._unedited[site]
        drift = (weight.double() - unedited.double()) + delta.dense().to(weight).double()
        left, values, right = torch.linalg.svd(drift, full_matrices=False)
        compressed = torch.minimum(values, (values / largest).clamp(min=1).log() + largest)
        pruned = (left * compressed) @ right
        return Delta(left=pruned - (weight.double() - unedited.double()))


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
        _check_every("norm_reset", self.every)

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Keep the unedited norms."""
        self._norms = {site: float(model.current(site).double().norm()) for site in sites}

    def finish(self, site: Site, delta: Delta, weight: Float[Tensor, "out in"], progress: Progress) -> Delta:
        """The update that leads to (W + Δ) ‖W₀‖ / ‖W + Δ‖, where a reset is due."""
        if not progress.passes(self.every):
            return delta
        written = weight.double() + delta.dense().to(weight).double()
        return Delta(left=written * (self._norms[site] / written.norm()) - weight.double())


def _check_every(name: str, every: int) -> None:
    if every < 1:
        raise ConfigError(f"regularizer.{name}.every={every}, but at least 1 edit has to lie between two")

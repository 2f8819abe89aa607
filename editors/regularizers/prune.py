"""PRUNE: compression of the large singular values of the whole drift."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from editors.models.model import Model
from editors.regularizers.base import Point, Progress, Regularizer, check_every
from editors.updates import Delta, Site


@dataclass(kw_only=True)
class Prune(Regularizer):
    """Compresses the large singular values of the whole drift D = W − W₀ (PRUNE).

    With σ₀ the largest singular value of W₀, every σ_i of D above it becomes log σ_i − log σ₀ + σ₀, and the
    matrix becomes W₀ + D′: the drift is replaced, not added to, unlike in two public drivers. If σ₀ < 1,
    the compressed value can lie above σ_i; σ_i is then unchanged.

    Source: Ma et al. 2024 (arXiv 2405.16821); the paper prunes once, at the end of the sequence.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 3

    every: int
    """Number of edits between two prunings; the length of the sequence prunes once, at its end."""
    _unedited: dict[Site, tuple[Tensor, float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_every("prune", self.every)

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Store the unedited matrices and their largest singular values."""
        for site in sites:
            weight = model.current(site).clone()
            self._unedited[site] = weight, float(torch.linalg.matrix_norm(weight.double(), ord=2))

    def finish(self, site: Site, delta: Delta, weight: Float[Tensor, "out in"], progress: Progress) -> Delta:
        """The update that leads to W₀ + D′ if pruning is due, otherwise Δ."""
        if not progress.passes(self.every):
            return delta
        unedited, largest = self._unedited[site]
        drift = (weight.double() - unedited.double()) + delta.dense().to(weight).double()
        left, values, right = torch.linalg.svd(drift, full_matrices=False)
        compressed = torch.minimum(values, (values / largest).clamp(min=1).log() + largest)
        pruned = (left * compressed) @ right
        return Delta(left=pruned - (weight.double() - unedited.double()))

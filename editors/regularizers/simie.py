"""SimIE: the update becomes the part of it that agrees with all tokens of all edits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from editors.data import Fact
from editors.errors import check_positive
from editors.models.gradients import read_targets
from editors.models.model import Model
from editors.regularizers.base import Point, Progress, Regularizer
from editors.solvers import Dense, least_squares
from editors.updates import Delta, Site


@dataclass(kw_only=True)
class SimIE(Regularizer):
    """Fits the update of any editor to its own effect on the facts, beside those of earlier facts (SimIE).

    Δ′ = Δ K Kᵀ (λ I + Σ K Kᵀ)⁻¹ with K (in, token) the inputs of the matrix at all tokens of prompt and
    target of these facts, on the weights before the edit, and the sum over all edits up to this one. So Δ′
    changes the outputs of these tokens as Δ does, and those of earlier edits' tokens as little as it can.

    Source: Guo et al. 2025 (ICML) and YamingGuo98/SimIE, in float64 where the published code has the
    precision of the weights. Deviation: its option to compute every edit on the unedited weights is left out.
    """

    point: ClassVar[Point] = "update"
    order: ClassVar[int] = 4

    weight: float = 1.0
    """λ; a larger one gives smaller updates."""
    _seen: dict[Site, Dense] = field(default_factory=dict, init=False, repr=False)
    _keys: dict[Site, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_positive("regularizer.simie", weight=self.weight)

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Start without any edit."""
        for site in sites:
            width = model.weight(site.name, site.layer).shape[1]
            self._seen[site] = Dense(torch.zeros(width, width, device=model.device), self.weight)

    def read(self, model: Model, sites: Sequence[Site], facts: Sequence[Fact]) -> None:
        """Read the inputs of the matrices at all tokens of the facts."""
        reading = read_targets(model, facts, "teacher_forced", min(site.layer for site in sites))
        evaluation = reading.evaluate(sites)
        self._keys = {site: evaluation.keys(site).T.double() for site in sites}

    def finish(self, site: Site, delta: Delta, weight: Float[Tensor, "out in"], progress: Progress) -> Delta:
        """Δ′, in thin factors."""
        keys = self._keys[site]
        left, right = least_squares(self._seen[site], keys, delta.dense().double() @ keys)
        return Delta(left=left, right=right)

    def commit(self) -> None:
        """Remember the tokens that were read."""
        for site, keys in self._keys.items():
            self._seen[site].add(keys)
        self._keys = {}

    def state_dict(self) -> dict[str, Tensor]:
        """(λ I + Σ K Kᵀ)⁻¹ of every matrix."""
        return {str(site): dense.inverse for site, dense in self._seen.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Remember the same tokens."""
        for site, dense in self._seen.items():
            dense.inverse = state[str(site)].to(dense.inverse)

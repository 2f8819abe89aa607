"""The control that turns a matrix, which keeps its norm and its singular values exactly.

R = cos θ I + sin θ J with a random complex structure J (Jᵀ = −J, J² = −I) is a rotation by θ in d/2 planes at
once. W ← R W keeps WᵀW: norm, spectrum and the length of the output for every key stay as they were, while W
drifts by ‖R W − W‖ = 2 sin(θ/2) ‖W‖. Where that is ‖Δ‖, damage cannot come from growth.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editors.controls.controls import Control
from editors.controls.noise import gaussian, generator_for
from editors.models.model import Model
from editors.updates import Delta, Site, WeightUpdate


@dataclass(kw_only=True)
class Rotated(Control):
    """R W − W with ‖R W − W‖_F = ‖Δ‖_F, or 2 ‖W‖_F if Δ is longer; J by seed, number of edits and site.

    With an odd number of output dimensions, one direction stays as it is.
    """

    name: str = "rotated"
    seed: int = 0
    """Seed of J, together with the number of edits and the site."""

    def act(self, model: Model, update: WeightUpdate, edits: int) -> WeightUpdate:
        """Changes of the same norms that keep the spectrum."""
        return {site: self._turn(model.current(site), site, delta, edits) for site, delta in update.items()}

    def _turn(self, weight: Float[Tensor, "out in"], site: Site, delta: Delta, edits: int) -> Delta:
        before = weight.double()
        half = len(before) // 2
        drawn = torch.empty(len(before), 2 * half, dtype=torch.float64, device=before.device)
        basis, _ = torch.linalg.qr(gaussian(drawn, generator_for(self.seed, edits, site)))
        first, second = (part @ before for part in basis.T.split(half))
        turning = math.hypot(float(first.norm()), float(second.norm()))  # ‖W‖ in the planes that turn
        angle = 2 * math.asin(min(1.0, float(delta.norm()) / (2 * turning))) if turning else 0.0
        shrink, cross = math.cos(angle) - 1, math.sin(angle)
        turned = torch.cat([shrink * first - cross * second, cross * first + shrink * second])
        return Delta(left=basis @ turned)

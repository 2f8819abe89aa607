"""ROME: one fact at a time, as a rank-one update of one layer.

Δ = (v* − v) uᵀ / (k·u) with u = C⁻¹k̄ / ‖C⁻¹k̄‖, k and v of the bare prompt, k̄ averaged over contexts.
The direction uses the averaged key and the denominator the bare one, so k·u can come close to zero and
the update grow without bound ("disabling edits"); that is the published method.

Source: Meng et al. 2022 (arXiv 2202.05262).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from editors.editor import Edit
from editors.errors import ConfigError
from editors.locate.locate import Keys, LocateThenEdit
from editors.locate.solvers import Preserved, equality
from editors.model.deltas import Delta
from editors.model.facts import Fact
from editors.model.model import Model


@dataclass(kw_only=True)
class ROME(LocateThenEdit):
    """Equality-constrained update with one key."""

    measured_at: ClassVar[str] = "mlp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) != 1:
            raise ConfigError(f"layers.edit={list(self.layers)}, but ROME edits exactly one layer")

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """The update of a single fact.

        Raises:
            ConfigError: for more than one fact: ROME has no batch form.
        """
        if len(facts) != 1:
            raise ConfigError(
                f"batch_size={len(facts)}, but ROME edits one fact at a time; use batch_size=1 or memit"
            )
        return super().edit(model, facts)

    def solve(self, preserved: Preserved, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """Δ = R uᵀ / (k·u)."""
        left, right = equality(preserved, keys.mean, residual)
        return Delta(left=left, right=right / (keys.bare.double() * right).sum())

"""ROME: one fact at a time, as a rank-one update of one layer.

Δ = (v* − v) uᵀ / (k·u) with u = C⁻¹k / ‖C⁻¹k‖. The `key_mode` chooses the key k and the output v:

    mode     direction u   numerator v   denominator k·u
    rome     averaged      bare          bare              as published
    r_rome   averaged      averaged      averaged          arXiv 2403.07175
    p_rome   bare          bare          bare              arXiv 2403.07175
    pr44     averaged      bare          averaged          kmeng01/rome, pull request 44

"Averaged" is over the context templates, "bare" of the prompt alone. The published mode mixes the two, so
that k·u can come close to zero and the update grow without bound ("disabling edits").

Source: Meng et al. 2022 (arXiv 2202.05262); r-ROME and p-ROME: Gupta et al. 2024 (arXiv 2403.07175).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Edit
from editors.data import Fact
from editors.errors import ConfigError
from editors.locate.base import LocateThenEdit
from editors.locate.keys import Keys
from editors.models.model import Model
from editors.moments.moment_sources import SITE
from editors.phases import Report, silent
from editors.solvers import Dense, Preserved, equality
from editors.updates import Delta


@dataclass(kw_only=True)
class ROME(LocateThenEdit):
    """Equality-constrained update with one key."""

    measured_at: ClassVar[str] = "mlp"
    remembered: ClassVar[Literal["before", "after"] | None] = None
    largest_batch: ClassVar[int | None] = 1

    key_mode: Literal["rome", "r_rome", "p_rome", "pr44"] = "rome"
    """Prompts of key and output, see the table above; `r_rome` avoids disabling edits."""
    second_moment: bool = True
    """Whether C is the keys' second moment; otherwise the identity (`mom2_adjustment` in published files)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) != 1:
            raise ConfigError(f"layers.edit={list(self.layers)}, but ROME edits exactly one layer")
        self.averages_output = self.key_mode == "r_rome"

    @property
    def statistics(self) -> str:
        """The label of C; empty if C is the identity."""
        return super().statistics if self.second_moment else ""

    @property
    def insertion_remedy(self) -> str:
        """The block: the value is met exactly whatever the weight of the second moment."""
        return f"edit another block (layers.edit={list(self.layers)})"

    def preserve(self, model: Model, report: Report = silent) -> dict[int, Preserved]:
        """C, or the identity."""
        if self.second_moment:
            return super().preserve(model, report)
        width = model.weight(SITE, self.layers[0]).shape[1]
        return {self.layers[0]: Dense(torch.eye(width).to(model.device), self.added_ridge)}

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
        direction = keys.bare if self.key_mode == "p_rome" else keys.mean
        measured = keys.bare if self.key_mode in ("rome", "p_rome") else keys.mean
        left, right = equality(preserved, direction, residual)
        return Delta(left=left, right=right / (measured.double() * right).sum())

"""‖Δ K_past‖² in the objective: what earlier edits wrote is preserved like everything else."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from editors.regularizers.base import Point, Regularizer


@dataclass(frozen=True, kw_only=True)
class History(Regularizer):
    """‖Δ K_past‖² in the objective: what earlier edits wrote is preserved like everything else.

    With it, edits one after another give the same weights as one batch of all of them.
    Source: AlphaEdit (arXiv 2410.02355, keys after the edit), ENCORE's code (keys before).
    """

    point: ClassVar[Point] = "normal equations"

    keys: Literal["before", "after", "default"] = "default"
    """`before`: those that the update was solved with; `after`: measured again on the edited weights, at one
    more pass; `default`: as the editor's published code does."""

    @property
    def remembers(self) -> Literal["before", "after", "default"] | None:
        """Which keys."""
        return self.keys

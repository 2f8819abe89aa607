"""‖Δ K_past‖² in the objective: the keys of earlier edits are preserved like those of the corpus."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from editors.regularizers.base import Point, Regularizer


@dataclass(frozen=True, kw_only=True)
class History(Regularizer):
    """‖Δ K_past‖² in the objective: the keys of earlier edits are preserved like those of the corpus.

    With it, sequential edits give the same weights as one batch of all of them.
    Source: AlphaEdit (arXiv 2410.02355, keys after the edit), ENCORE's code (keys before).
    """

    point: ClassVar[Point] = "normal equations"

    keys: Literal["before", "after", "default"] = "default"
    """`before`: the keys that the update was solved with; `after`: keys measured again on the edited weights,
    which costs another pass; `default`: as in the editor's published code."""

    @property
    def remembers(self) -> Literal["before", "after", "default"] | None:
        """The value of `keys`."""
        return self.keys

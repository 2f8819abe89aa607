"""Additions that keep an edit small, each acting at one named point of it.

The points, in the order of an edit: stop (of the target's optimisation), normal equations (what is
preserved). A regularizer overrides the method of its point and inherits the others, which do nothing;
any of them combines with any locate-then-edit editor.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from editors.errors import ConfigError


class Regularizer:
    """Does nothing at every point."""

    @property
    def ridge(self) -> float:
        """Normal equations: multiple of the identity that is added to what is preserved."""
        return 0.0

    @property
    def remembers(self) -> bool:
        """Normal equations: whether the keys of earlier edits are preserved too."""
        return False

    @property
    def patience(self) -> int:
        """Stop: how often `satisfied` has to hold for a target to be final; 0 never stops."""
        return 0

    def satisfied(self, correct: Bool[Tensor, "fact template"]) -> Bool[Tensor, " fact"]:
        """Stop: which facts' targets are good enough, given where every target token is the arg-max."""
        return torch.zeros_like(correct[:, 0])


@dataclass(frozen=True, kw_only=True)
class MPES(Regularizer):
    """Most-probable early stopping: stop once the target is the model's own first choice.

    Counted over all iterations, not only consecutive ones; the target that satisfied it is kept.
    Source: ENCORE (arXiv 2502.01636) and its code, `prob_cutoff`.
    """

    hits: int = 4
    """Iterations at which the target was the arg-max everywhere."""
    rows: Literal["prefixed", "all"] = "prefixed"
    """`prefixed` leaves the bare prompt out, as the published code does; `all` includes it."""

    def __post_init__(self) -> None:
        if self.hits < 1:
            raise ConfigError(
                f"regularizer.mpes.hits={self.hits}, but at least 1 is needed; drop mpes to switch it off"
            )

    @property
    def patience(self) -> int:
        """`hits`."""
        return self.hits

    def satisfied(self, correct: Bool[Tensor, "fact template"]) -> Bool[Tensor, " fact"]:
        """Whether the target is the arg-max at every position of all monitored templates."""
        first = 1 if self.rows == "prefixed" and correct.shape[1] > 1 else 0
        return correct[:, first:].all(dim=1)


@dataclass(frozen=True, kw_only=True)
class NormConstraint(Regularizer):
    """λn ‖Δ‖²_F in the objective: λn I in the normal equations.

    It damps the growth of one update and does not bound the drift over many.
    Source: ENCORE (arXiv 2502.01636), equation 8.
    """

    weight: float = 10.0
    """λn."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"regularizer.norm_constraint.weight={self.weight}, but it has to be positive")

    @property
    def ridge(self) -> float:
        """λn."""
        return self.weight


@dataclass(frozen=True, kw_only=True)
class History(Regularizer):
    """‖Δ K_past‖² in the objective: what earlier edits wrote is preserved like everything else.

    With it, edits one after another give the same weights as one batch of all of them. The keys are
    those that each update was solved with. Source: AlphaEdit (arXiv 2410.02355), ENCORE's code.
    """

    @property
    def remembers(self) -> bool:
        """True."""
        return True

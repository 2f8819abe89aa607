"""Additions that keep an edit small, each acting at one named point of it.

The points, in the order of an edit:

    stop               when a target is final                        mpes
    target             what a target becomes                         norm_anchor
    normal equations   what the update has to preserve               norm_constraint, history
    update             which part of an update is written            subspace_guard, hypersphere · rect, prune
    weight             what the written matrix becomes               norm_reset

Those that project an update act on each layer's before it is written, so that later layers take up what was
dropped; the others act on all layers' updates once they are solved. At one point they act in the order of
this table, whatever the order they were listed in. A regularizer overrides the methods of its point and
inherits the others, which do nothing. Those of updates and weights are in `spectral.py` and `drift.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.errors import ConfigError
from editors.model.deltas import Delta, Site
from editors.model.facts import Fact
from editors.model.model import Model

if TYPE_CHECKING:
    from editors.locate.targets import Targets

Point = Literal["stop", "target", "normal equations", "update", "weight"]


@dataclass(frozen=True)
class Progress:
    """How many facts a sequence had edited before an edit, and has after it."""

    before: int
    after: int

    def passes(self, every: int) -> bool:
        """Whether a multiple of `every` is reached by this edit."""
        return self.after // every > self.before // every


class Regularizer:
    """Does nothing at every point."""

    point: ClassVar[Point] = "stop"
    order: ClassVar[int] = 0
    """Place among those that act at the same point; lower ones act first."""

    @property
    def patience(self) -> int:
        """Stop: how often `satisfied` has to hold for a target to be final; 0 never stops."""
        return 0

    def satisfied(self, correct: Bool[Tensor, "fact template"]) -> Bool[Tensor, " fact"]:
        """Stop: which facts' targets are good enough, given where every target token is the arg-max."""
        return torch.zeros_like(correct[:, 0])

    def calibrate(self, find: "Callable[[Sequence[Fact]], Targets]", facts: Sequence[Fact]) -> None:
        """Target: measure what is needed on the unedited model; `find` optimises targets."""

    def aim(self, targets: "Targets") -> "Targets":
        """Target: what the targets become."""
        return targets

    @property
    def ridge(self) -> float:
        """Normal equations: multiple of the identity that is added to what is preserved."""
        return 0.0

    @property
    def remembers(self) -> Literal["before", "after", "default"] | None:
        """Normal equations: which keys of earlier edits are preserved too, if any."""
        return None

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Update, weight: keep what is needed of the unedited matrices."""

    def project(self, site: Site, delta: Delta) -> Delta:
        """Update: the part of one layer's update that is written."""
        return delta

    def finish(self, site: Site, delta: Delta, weight: Float[Tensor, "out in"], progress: Progress) -> Delta:
        """Update, weight: what the update becomes once all layers are solved; `weight` is W before it."""
        return delta


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


@dataclass(kw_only=True)
class NormAnchor(Regularizer):
    """Norm-anchor scaling: every target gets the mean norm that targets had on the unedited model.

    v* = δ + (what the MLP wrote) becomes ρ v* / ‖v*‖; a target with ‖v*‖ > limit · ρ is given up: δ = 0.
    ρ is the mean of ‖v*‖ over some of the facts to be edited, the longest left out, before any edit.

    ρ is measured with the editor's optimiser on bare prompts, without a stop rule. Source: arXiv 2602.02543
    and SasyaTitech/NAS, which measures it with MEMIT's settings on facts drawn from CounterFact.
    """

    point: ClassVar[Point] = "target"

    samples: int = 1000
    """Facts that the reference is measured on, the first of the sequence; `nas_restart` in published code."""
    dropped: float = 0.05
    """Share of them with the longest v* that is left out."""
    limit: float = 2.0
    reference: float = field(default=0.0, init=False)
    """ρ."""

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 <= self.dropped < 1 or not self.limit > 0:
            raise ConfigError(
                f"regularizer.norm_anchor: samples={self.samples} and limit={self.limit} have to be positive "
                f"and dropped={self.dropped} at least 0 and below 1"
            )

    def calibrate(self, find: "Callable[[Sequence[Fact]], Targets]", facts: Sequence[Fact]) -> None:
        """Measure ρ.

        Raises:
            ConfigError: without facts to measure it on.
        """
        if not facts:
            raise ConfigError("norm_anchor measures its reference on facts: pass them to prepare")
        targets = find(facts[: self.samples])
        norms = _values(targets).norm(dim=1).sort().values
        self.reference = float(norms[: len(norms) - int(self.dropped * len(norms))].mean())

    def aim(self, targets: "Targets") -> "Targets":
        """Targets whose v* has norm ρ."""
        values = _values(targets)
        norms = values.norm(dim=1, keepdim=True)
        scaled = torch.where(
            norms > self.limit * self.reference, targets.written, values * self.reference / norms
        )
        return replace(targets, vectors=targets.initial - targets.written + scaled)


def _values(targets: "Targets") -> Float[Tensor, "fact width"]:
    """What the MLP would have to write: v* = δ + its output."""
    return targets.vectors - targets.initial + targets.written


@dataclass(frozen=True, kw_only=True)
class NormConstraint(Regularizer):
    """λn ‖Δ‖²_F in the objective: λn I in the normal equations.

    It damps the growth of one update and does not bound the drift over many.
    Source: ENCORE (arXiv 2502.01636), equation 8.
    """

    point: ClassVar[Point] = "normal equations"

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

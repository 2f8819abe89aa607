"""Additions that keep an edit small; each acts at one named point of the edit.

The points, in the order of an edit:

    stop               when a target is final               mpes
    target             changes the target                   norm_anchor
    normal equations   adds to the preserved directions     norm_constraint, history
    update             restricts the written part           subspace_guard, hypersphere · rect, prune
    weight             changes the written matrix           norm_reset

Projections are applied to the update of each layer before it is written. Later layers then compensate for the
part that was removed. The others act on the updates of all layers once they are solved. At one point they act
in the order of this table, whatever the order in the configuration. A regularizer overrides the methods of
its point and inherits the others, which do nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model
from editors.updates import Delta, Site

if TYPE_CHECKING:
    from editors.base import Targets

Point = Literal["stop", "target", "normal equations", "update", "weight"]


@dataclass(frozen=True)
class Progress:
    """Number of facts that a sequence has edited before and after an edit."""

    before: int
    after: int

    def passes(self, every: int) -> bool:
        """Whether this edit reaches a multiple of `every`."""
        return self.after // every > self.before // every


class Regularizer:
    """The base class of regularizers, which does nothing at any point."""

    point: ClassVar[Point] = "stop"
    """The point of the edit at which the regularizer acts."""
    order: ClassVar[int] = 0
    """Rank among the regularizers of one point; lower ones act first."""

    @property
    def patience(self) -> int:
        """Stop: number of iterations with `satisfied` after which a target is final; 0 never stops."""
        return 0

    def satisfied(self, correct: Bool[Tensor, "fact template"]) -> Bool[Tensor, " fact"]:
        """Stop: whether each fact's target is good enough; `correct` if every target token is the arg-max."""
        return torch.zeros_like(correct[:, 0])

    def calibrate(self, find: "Callable[[Sequence[Fact]], Targets]", facts: Sequence[Fact]) -> None:
        """Target: measure reference values on the unedited model; `find` optimises targets."""

    def aim(self, targets: "Targets") -> "Targets":
        """Target: the changed targets."""
        return targets

    @property
    def ridge(self) -> float:
        """Normal equations: multiple of the identity that is added to the preserved directions."""
        return 0.0

    @property
    def remembers(self) -> Literal["before", "after", "default"] | None:
        """Normal equations: the keys of earlier edits that are also preserved; None for no keys."""
        return None

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Update, weight: store reference values of the unedited matrices."""

    def project(self, site: Site, delta: Delta) -> Delta:
        """Update: the part of one layer's update that is written."""
        return delta

    def read(self, model: Model, sites: Sequence[Site], facts: Sequence[Fact]) -> None:
        """Update: measure what the update depends on; the facts are about to be edited together."""

    def finish(self, site: Site, delta: Delta, weight: Float[Tensor, "out in"], progress: Progress) -> Delta:
        """Update, weight: the final update, once all layers are solved; `weight` is W before it."""
        return delta

    def commit(self) -> None:
        """Update: remember what was read, once the update is applied."""

    def state_dict(self) -> dict[str, Tensor]:
        """Update: what is remembered of earlier edits; empty for most."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Update: remember it again, after `prepare`."""


def check_every(name: str, every: int) -> None:
    """Raise ConfigError unless `every` is a positive number of edits."""
    if every < 1:
        raise ConfigError(f"regularizer.{name}.every={every}, but at least 1 edit has to lie between two")


def damp_outputs(delta: Delta, basis: Float[Tensor, "out k"], strength: float) -> Delta:
    """(I − strength · B Bᵀ) Δ: the update with its outputs damped along the basis."""
    basis = basis.to(delta.left)
    return replace(delta, left=delta.left - strength * basis @ (basis.T @ delta.left))


def damp_inputs(delta: Delta, basis: Float[Tensor, "in k"], strength: float) -> Delta:
    """Δ (I − strength · B Bᵀ): the update with its inputs damped along the basis."""
    basis = basis.to(delta.left)
    if delta.right is None:
        return replace(delta, left=delta.left - strength * (delta.left @ basis) @ basis.T)
    return replace(delta, right=delta.right - strength * basis @ (basis.T @ delta.right))


def smallest_count(shares: Float[Tensor, " direction"], energy: float) -> int:
    """Smallest number of the descending `shares` whose sum is at least `energy` of the total."""
    return int((shares.cumsum(dim=0) < energy * shares.sum()).sum()) + 1


def check_share(name: str, value: float) -> None:
    """Raise ConfigError unless `value` lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ConfigError(f"regularizer.{name}={value}, but it has to lie between 0 and 1")

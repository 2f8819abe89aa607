"""Norm-anchor scaling: every target gets the mean norm that targets had on the unedited model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError
from editors.regularizers.base import Point, Regularizer

if TYPE_CHECKING:
    from editors.base import Targets


@dataclass(kw_only=True)
class NormAnchor(Regularizer):
    """Norm-anchor scaling: every target gets the mean norm that targets had on the unedited model.

    v* = δ + (what the MLP wrote) becomes ρ v* / ‖v*‖; a target with ‖v*‖ > limit · ρ is dropped: δ = 0.
    ρ is the mean of ‖v*‖ over some of the facts to edit, without the longest, before any edit.

    ρ is measured with the editor's optimiser on bare prompts, without a stop rule. Source: arXiv 2602.02543
    and SasyaTitech/NAS, which measures it with MEMIT's settings on facts drawn from CounterFact.
    """

    point: ClassVar[Point] = "target"

    samples: int = 1000
    """Number of facts, the first of the sequence, for measuring ρ; `nas_restart` in published code."""
    dropped: float = 0.05
    """Share of them, those with the longest v*, that is excluded from the mean."""
    limit: float = 2.0
    """Targets with a norm above limit · ρ are dropped."""
    reference: Tensor = field(default_factory=lambda: torch.zeros(1), init=False, repr=False, compare=False)
    """ρ of every layer with targets, measured by `calibrate`."""

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
        norms = _values(targets).norm(dim=2).sort(dim=0).values
        self.reference = norms[: len(norms) - int(self.dropped * len(norms))].mean(dim=0)

    def aim(self, targets: "Targets") -> "Targets":
        """Targets whose v* has norm ρ."""
        values = _values(targets)
        norms, reference = values.norm(dim=2, keepdim=True), self.reference.to(values)[:, None]
        scaled = torch.where(norms > self.limit * reference, targets.written, values * reference / norms)
        return replace(targets, vectors=targets.initial - targets.written + scaled)


def _values(targets: "Targets") -> Float[Tensor, "fact layer width"]:
    """The intended output of the MLP: v* = δ + its output."""
    return targets.vectors - targets.initial + targets.written

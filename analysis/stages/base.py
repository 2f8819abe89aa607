"""What every measurement is: something that looks at a model at chosen moments and never changes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor

from analysis.stages.reference import Reference
from analysis.units import Unit
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model
from editors.updates import Site, WeightUpdate

Measurement = dict[str, float | pd.DataFrame]
"""Metric keys with numbers; a name without a slash holds a table."""


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """When a stage measures: always at the start and at the end of a part, and in between as told.

    Counts are of edits, or of optimiser steps where a part of the run trains. Batches may step over a point;
    the first moment at or after it counts.
    """

    every: int = 0
    """Edits or steps between two measurements; 0 leaves only start and end."""
    at: Sequence[int] = ()
    """Further counts, for example log-spaced ones."""

    def __post_init__(self) -> None:
        if self.every < 0 or any(point < 0 for point in self.at):
            raise ConfigError(f"cadence every={self.every} at={list(self.at)}: counts cannot be negative")

    def due(self, before: int, now: int, total: int) -> bool:
        """Whether to measure after the step that led from `before` to `now` of `total`."""
        if now in (0, total):
            return True
        if self.every and before // self.every < now // self.every:
            return True
        return any(before < point <= now for point in self.at)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """All that a stage may know about the run."""

    count: int
    """How far the part of the run is: facts edited, or optimiser steps taken."""
    total: int
    """The count at which the part ends."""
    before: int = 0
    """The count before the last change."""
    unit: Unit = "edits"
    """What is counted."""
    part: int = 0
    """Which part of the run this is, from 0."""
    changes: int = 0
    """Changes made to the model so far, in all parts of the run."""
    latest: Sequence[Fact] = ()
    """Facts of the last change."""
    seen: Sequence[Fact] = ()
    """All facts edited so far in the whole run, in order."""
    others: Sequence[Fact] = ()
    """Facts of edited subjects that were not edited themselves."""
    untouched: Sequence[Fact] = ()
    """Facts of subjects that the run never edits."""
    update: WeightUpdate = field(default_factory=dict)
    """What the last change added to the weights, where it is told."""
    edited: Sequence[Site] = ()
    """Every matrix that the run edits or trains."""
    reference: Reference | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing follows in this part."""
        return self.count == self.total

    @property
    def is_first(self) -> bool:
        """Whether no change lies before the last one: for what need not be told again and again."""
        return self.part == 0 and self.before == 0

    @property
    def is_unedited(self) -> bool:
        """Whether the model is still the one that `prepare` saw."""
        return self.part == 0 and self.count == 0


@runtime_checkable
class Stage(Protocol):
    """A measurement with a cadence of its own; `compare` runs it on any two models."""

    @property
    def name(self) -> str:
        """As in `time/<name>/seconds`."""
        ...

    @property
    def cadence(self) -> Cadence:
        """When it measures."""
        ...

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Take what is needed from the unedited model; `planned` facts will be edited, in this order."""
        ...

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Measure now; weights, hooks, mode and global random state stay as they are."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A stage whose numbers hang on earlier measurements too: what it needs of them is saved with a run."""

    def memory(self) -> dict[str, Tensor]:
        """What it keeps from one measurement to the next, beyond what `prepare` finds again."""
        ...

    def recall(self, model: Model, memory: Mapping[str, Tensor]) -> None:
        """After `prepare`: go on where `memory` was asked for."""
        ...


def compare(
    stages: Sequence[Stage], unedited: Model, edited: Model, facts: Sequence[Fact] = ()
) -> Measurement:
    """What the stages find of a model that differs from another one of the same shape; for notebooks.

    `facts` are what was written into `edited`, where one knows. Matrices count as edited where they differ.
    """
    reference = Reference(unedited)
    changed = [
        s for s, before in reference.weights.items() if not torch.equal(before, edited.current(s).cpu())
    ]
    count = max(len(facts), 1)
    observation = Observation(
        count=count, total=count, seen=facts, latest=facts, edited=changed, reference=reference
    )
    found: Measurement = {}
    for stage in stages:
        stage.prepare(unedited, facts)
        found |= stage.measure(edited, observation)
    return found

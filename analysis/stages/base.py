"""The common shape of every measurement: it looks at a model at given moments and never changes it.

A stage subclasses `Stage`, implements `measure` and, if it needs the unedited model, `prepare`. `compare`
runs stages on any two models without a run around them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor

from analysis.stages.reference import Reference
from analysis.units import Unit
from editors.data import Fact, Reader, as_it_is
from editors.errors import ConfigError
from editors.models.model import Model
from editors.updates import Site, WeightUpdate

Measurement = dict[str, float | pd.DataFrame]
"""Metric keys with numbers; a name without a slash holds a table."""


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """When a stage measures: always at the start and at the end of a part, and in between as configured.

    Counts are of edits, or of optimiser steps if a part of the run trains. Batches may step over a point;
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
    """The moment of a run at which a stage measures, and everything the stage may use of the run."""

    count: int
    """Progress of the part of the run: facts edited, or optimiser steps taken."""
    total: int
    """The count at which the part ends."""
    before: int = 0
    """The count before the last change."""
    unit: Unit = "edits"
    """The unit of the counts."""
    part: int = 0
    """Number of the part of the run, from 0."""
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
    """What the last change added to the weights; empty if the intervention does not report it."""
    edited: Sequence[Site] = ()
    """Every matrix that the run edits or trains."""
    reference: Reference | None = None
    """The unedited weights."""
    reader: Reader = as_it_is
    """What the model reads for a prompt, if the edits so far are not in its weights."""

    @property
    def is_last(self) -> bool:
        """Whether this is the last measurement of the part."""
        return self.count == self.total

    @property
    def is_first(self) -> bool:
        """Whether at most one change was made so far: for numbers that are logged only once."""
        return self.part == 0 and self.before == 0

    @property
    def is_unedited(self) -> bool:
        """Whether the model is still the one that `prepare` saw."""
        return self.part == 0 and self.count == 0


def spread_over(facts: Sequence[Fact], most: int | None) -> Sequence[Fact]:
    """At most so many of the facts, evenly from first to last; None takes all."""
    count = min(most or len(facts), len(facts))
    return [facts[place * len(facts) // count] for place in range(count)]


class Stage(ABC):
    """A measurement with its own cadence. Only `measure` has to be implemented."""

    name: str
    """Names the stage in `time/<name>/seconds`."""
    cadence: Cadence
    """When the stage measures."""

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:  # noqa: B027
        """Take what is needed from the unedited model; `planned` facts will be edited, in this order.

        Called once at the start of a run, also of a resumed one. By default nothing is taken.
        """

    @abstractmethod
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Measure now; weights, hooks, mode and global random state stay as they are."""

    def memory(self) -> dict[str, Tensor]:
        """The state from one measurement to the next that `prepare` cannot restore; a checkpoint holds it.

        Empty by default: the numbers do not depend on earlier measurements.
        """
        return {}

    def recall(self, model: Model, memory: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore the state that `memory` returned; called after `prepare` if a run is resumed."""

    def check_minimums(self, **minimums: int) -> None:
        """Raise a ConfigError for the first of these options whose value is below its minimum."""
        for option, minimum in minimums.items():
            value = getattr(self, option)
            if value is not None and value < minimum:
                raise ConfigError(f"stage.{self.name}.{option}={value}, but it has to be at least {minimum}")


def compare(
    stages: Sequence[Stage], unedited: Model, edited: Model, facts: Sequence[Fact] = ()
) -> Measurement:
    """Measurements of a model that differs from another one of the same shape; for notebooks.

    `facts` are those written into `edited`, if they are known. Matrices count as edited if they differ.
    """
    reference = Reference(unedited)
    changed = reference.changed(edited)
    count = max(len(facts), 1)
    observation = Observation(
        count=count, total=count, seen=facts, latest=facts, edited=changed, reference=reference
    )
    result: Measurement = {}
    for stage in stages:
        stage.prepare(unedited, facts)
        result |= stage.measure(edited, observation)
    return result

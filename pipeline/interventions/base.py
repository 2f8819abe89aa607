"""What one step of a run does to the model; a run is a sequence of such steps and of looks at the result."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from analysis.stages.base import Unit
from editors.data import Fact
from editors.models.model import Model
from editors.updates import Site, WeightUpdate
from pipeline.data.factset import FactSet
from pipeline.runs.checkpoint_store import Saved
from pipeline.runs.signals import Requests


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which facts a run edits, in order, and which it leaves alone."""

    stream: Sequence[Fact] = ()
    others: Sequence[Fact] = ()
    """Facts of edited subjects that are not edited themselves."""
    untouched: Sequence[Fact] = ()
    """Facts of subjects that are never edited."""
    learnt: Sequence[Fact] = ()
    """Facts that an editor learns to edit on."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of a run with an x-axis of its own."""

    name: str
    """As the intervention is called."""
    unit: Unit
    """What its x-axis counts."""
    total: int
    """Where that axis ends."""
    edited: Sequence[Site] = ()
    """Every matrix that changes."""
    index: int = 0
    """Its place among the parts of the run."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one step did; the weights hold it already."""

    facts: Sequence[Fact] = ()
    """Those that were edited."""
    steps: int = 0
    """Optimiser steps that were taken."""
    tokens: int = 0
    """Tokens that were trained on."""
    update: WeightUpdate = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the step tells of itself, by metric key."""
    details: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What is told of each fact, an entry a fact."""


class StepObserver(Protocol):
    """Looks at the model after each step; an intervention tells it of every one."""

    @property
    def requests(self) -> Requests:
        """What the run was asked to do where a step ends."""
        ...

    @property
    def folder(self) -> Path:
        """Where the run's files lie."""
        ...

    @property
    def checkpoints(self) -> Path:
        """Where a part keeps its states, which an interrupted run goes on from."""
        ...

    @property
    def resumed(self) -> Saved | None:
        """What an interrupted run left to go on from."""
        ...

    def due(self, part: Part, count: int) -> bool:
        """Whether anything is measured there: who has to gather the weights first can save the trouble."""
        ...

    def look(self, model: Model, part: Part, change: Change | None = None) -> bool:
        """Measure and record; without a change where a part begins. Whether to go on."""
        ...

    def save(self, checkpoint: Path, pieces: Sequence[Path] = ()) -> None:
        """Complete a state of the weights, and of files beside it, with what the run needs to go on."""
        ...


class Intervention(ABC):
    """Changes a model step by step.

    A subclass defines `name`, `plan` and `run`. The defaults are for a change that one process makes alone,
    without second moments, check or preparation.
    """

    name: str
    """As in configurations and results."""

    @property
    def statistics(self) -> str:
        """The label of the second moments that it uses; empty if it uses none."""
        return ""

    @property
    def shared(self) -> bool:
        """Whether several processes can run it together."""
        return False

    @abstractmethod
    def plan(self, facts: FactSet) -> Plan:
        """Which of the facts the run edits and which it leaves alone."""

    def check(self, model: Model, plan: Plan) -> None:  # noqa: B027
        """Raise for what cannot work, before anything takes long."""

    def prepare(self, model: Model, plan: Plan) -> None:  # noqa: B027
        """Do once what the first step needs."""

    @abstractmethod
    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Change the model step by step and report each step, until the observer returns False."""


@dataclass(frozen=True, kw_only=True)
class Nothing(Intervention):
    """Leaves the model as it is: the stages measure it once."""

    name: str = "none"

    def plan(self, facts: FactSet) -> Plan:
        """All facts are left alone."""
        return Plan(untouched=facts.facts)

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """One measurement."""
        observer.look(model, Part(name=self.name, unit="edits", total=0))

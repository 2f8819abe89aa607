"""Interventions: a run is a sequence of steps that change the model, each followed by a measurement."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from analysis.stages.base import Unit
from editors.base import Cause
from editors.data import Fact, Reader, as_it_is
from editors.errors import ConfigError
from editors.models.loading import Checkpoint
from editors.models.model import Model
from editors.phases import Phase, Report, silent
from editors.updates import Site, WeightUpdate
from pipeline.data.factset import FactSet
from pipeline.runs.checkpoint_store import Saved
from pipeline.runs.signals import Requests


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The facts that a run edits, in order, and those that it leaves alone."""

    stream: Sequence[Fact] = ()
    others: Sequence[Fact] = ()
    """Facts of edited subjects that are not edited themselves."""
    untouched: Sequence[Fact] = ()
    """Facts of subjects that are never edited."""
    learnt: Sequence[Fact] = ()
    """Facts on which an editor is trained."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of a run with an x-axis of its own."""

    name: str
    """The name of the intervention."""
    unit: Unit
    """The unit of its x-axis: edits or optimiser steps."""
    total: int
    """The end of that axis."""
    edited: Sequence[Site] = ()
    """Every matrix that changes."""
    index: int = 0
    """Its place among the parts of the run, from 0."""
    complete: bool = False
    """Whether every measurement is complete, by all stages, as that of the end is: for models that stand for
    themselves rather than for a step."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One step, which was already applied to the weights."""

    facts: Sequence[Fact] = ()
    """The edited facts."""
    steps: int = 0
    """Optimiser steps taken."""
    tokens: int = 0
    """Tokens trained on."""
    update: WeightUpdate = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Numbers about the step, by metric key."""
    details: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Diagnostics per fact: each sequence has one entry per fact."""


class StepObserver(Protocol):
    """Called by an intervention after each step."""

    @property
    def requests(self) -> Requests:
        """Requests by signals, answered at the end of a step."""
        ...

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        ...

    @property
    def checkpoints(self) -> Path:
        """The folder of the part's checkpoints, from which an interrupted run resumes."""
        ...

    @property
    def resumed(self) -> Saved | None:
        """The checkpoint that the run resumes from, if any."""
        ...

    def due(self, part: Part, count: int) -> bool:
        """Whether anything is measured at this count; if not, sharded weights need not be gathered."""
        ...

    def look(self, model: Model, part: Part, change: Change | None = None) -> bool:
        """Measure and record; `change` is None at the beginning of a part. Returns whether to continue."""
        ...

    def report(self, phase: Phase) -> None:
        """Show a phase of the preparation of a later part."""
        ...

    def save(self, checkpoint: Path, pieces: Sequence[Path] = ()) -> None:
        """Complete a checkpoint of the weights, and of `pieces` beside it, with the progress of the run."""
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
    def remedies(self) -> Mapping[Cause, str]:
        """What to try if its edits do not take, by the cause; empty if it makes none."""
        return {}

    def reader(self, facts: Sequence[Fact]) -> Reader:
        """What the model reads for a prompt once these facts are edited; by default the prompt."""
        return as_it_is

    @property
    def shared(self) -> bool:
        """Whether several processes can run it together."""
        return False

    def changes(self, plan: Plan) -> Sequence[Site] | None:
        """Every matrix of a block that it changes; None if it is unknown before the model is loaded.

        The others can be held in four bits. By default None.
        """
        return None

    @abstractmethod
    def plan(self, facts: FactSet) -> Plan:
        """Which of the facts the run edits and which it leaves alone."""

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Report = silent) -> Model:
        """The model that it will change; raises ConfigError for four bits that it might have to write to."""
        changed = self.changes(plan)
        if checkpoint.bits is not None and changed is None:
            raise ConfigError(
                f"model.bits={checkpoint.bits} is for edits, but intervention={self.name} may change any "
                "matrix: leave out model.bits, or choose intervention=knowledge_edit"
            )
        return checkpoint.load(report, changed or ())

    def check(self, model: Model, plan: Plan) -> None:  # noqa: B027
        """Raise for what cannot work, before anything takes long."""

    def select(self, model: Model, plan: Plan, report: Report = silent) -> Plan:
        """The plan without what the model cannot read; raises DataError if that is to be refused.

        By default the whole plan. `report` gets the phases of the work.
        """
        return plan

    def prepare(self, model: Model, plan: Plan, report: Report = silent) -> None:  # noqa: B027
        """Do once what the first step needs; `report` gets the phases of the work."""

    @abstractmethod
    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Change the model step by step and report each step, until the observer returns False."""


@dataclass(frozen=True, kw_only=True)
class Nothing(Intervention):
    """Leaves the model as it is: the stages measure it once."""

    name: str = "none"

    def changes(self, plan: Plan) -> Sequence[Site]:
        """No matrix."""
        return ()

    def plan(self, facts: FactSet) -> Plan:
        """All facts are left alone."""
        return Plan(untouched=facts.facts)

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """One measurement."""
        observer.look(model, Part(name=self.name, unit="edits", total=0))

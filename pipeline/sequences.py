"""Interventions made of others: one after another, or edits between training steps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from editors.errors import ConfigError
from editors.model.model import Model
from pipeline.factset import FactSet
from pipeline.interventions import Change, Intervention, KnowledgeEdit, Onlooker, Part, Plan
from pipeline.rundir import Saved
from pipeline.training.trained import check_in_place
from pipeline.training.training import Training


@dataclass(frozen=True, kw_only=True)
class InOrder:
    """One intervention after another on the same model, each with an x-axis of its own.

    An editor is prepared on the model as it is when its turn comes.
    """

    name: str
    parts: Mapping[str, Intervention]
    """By any name, in order."""
    shared: bool = field(default=False, init=False)
    """One process does it."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError(f"intervention={self.name} has no parts")

    @property
    def statistics(self) -> str:
        """Those of the part that has some."""
        return next((part.statistics for part in self.parts.values() if part.statistics), "")

    def plan(self, facts: FactSet) -> Plan:
        """The plan of the part that edits; raises ConfigError where several do."""
        plans = [part.plan(facts) for part in self.parts.values()]
        editing = [plan for plan in plans if plan.stream]
        if len(editing) > 1:
            raise ConfigError(
                f"intervention={self.name} has {len(editing)} parts that edit, and they would edit the same "
                "facts: leave one of them"
            )
        return editing[0] if editing else plans[0]

    def check(self, model: Model, plan: Plan) -> None:
        """Check every part."""
        for part in self.parts.values():
            part.check(model, plan)

    def prepare(self, model: Model, plan: Plan) -> None:
        """Prepare the first part."""
        next(iter(self.parts.values())).prepare(model, plan)

    def run(self, model: Model, plan: Plan, onlooker: Onlooker) -> None:
        """One part after another, from the one that an interrupted run was in."""
        first = onlooker.resumed.part if onlooker.resumed else 0
        for index, part in enumerate(self.parts.values()):
            if index < first:
                continue
            if index > 0:
                part.prepare(model, plan)
            seat = _Seat(
                onlooker,
                index,
                resumed=onlooker.resumed if index == first else None,
                saves=index == 0 or not isinstance(part, Training) or part.trained.in_place,
            )
            part.run(model, plan, seat)
            if seat.stopped:
                return


@dataclass(frozen=True, kw_only=True)
class EditsBetweenSteps:
    """A batch of edits after every few optimiser steps of one training.

    Cannot be resumed: an interrupted run starts anew.
    """

    name: str
    training: Training
    editing: KnowledgeEdit
    every: int
    """Optimiser steps between two batches of edits."""
    shared: bool = field(default=False, init=False)
    """One process does it."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"intervention.every={self.every}, but it has to be positive")
        check_in_place(self.training.trained)
        if self.training.save_every:
            raise ConfigError(
                "edits between training steps cannot be resumed: set save_every=0 of its training"
            )

    @property
    def statistics(self) -> str:
        """The editor's."""
        return self.editing.statistics

    def plan(self, facts: FactSet) -> Plan:
        """The plan of as many edits as there is time for."""
        possible = self.training.steps // self.every * self.editing.batch_size
        if not possible:
            raise ConfigError(
                f"steps={self.training.steps} leave no time for an edit every {self.every} steps"
            )
        return replace(self.editing, edits=min(self.editing.edits, possible)).plan(facts)

    def check(self, model: Model, plan: Plan) -> None:
        """Check both."""
        self.editing.check(model, plan)
        self.training.check(model, plan)

    def prepare(self, model: Model, plan: Plan) -> None:
        """Prepare both; the editor's statistics are of the model before it is trained."""
        self.editing.prepare(model, plan)
        self.training.prepare(model, plan)

    def run(self, model: Model, plan: Plan, onlooker: Onlooker) -> None:
        """Train, and edit whenever it is time, until there are no more facts."""
        edits = self.editing.steps(model, plan)
        part = replace(self.editing.part(plan), index=1)
        self.training.run(model, plan, _Editing(onlooker, part, edits, self.every))


class _Seat:
    """An onlooker as one part of a sequence sees it: the part has its own place."""

    def __init__(self, onlooker: Onlooker, index: int, resumed: Saved | None, saves: bool) -> None:
        self.onlooker, self.index, self.resumed = onlooker, index, resumed
        self.saves = saves
        """Not where a checkpoint holds adapters alone: what earlier parts made of the weights is missing."""
        self.stopped = False

    @property
    def checkpoints(self) -> Path:
        return self.folder / "training" / str(self.index)

    @property
    def folder(self) -> Path:
        return self.onlooker.folder

    def due(self, part: Part, count: int) -> bool:
        return self.onlooker.due(replace(part, index=self.index), count)

    def look(self, model: Model, part: Part, change: Change | None = None) -> bool:
        self.stopped = not self.onlooker.look(model, replace(part, index=self.index), change)
        return not self.stopped

    def save(self, checkpoint: Path) -> None:
        if self.saves:
            self.onlooker.save(checkpoint)


class _Editing:
    """An onlooker that edits after it has looked."""

    def __init__(self, onlooker: Onlooker, part: Part, edits: Iterator[Change], every: int) -> None:
        self.onlooker, self.part, self.edits, self.every = onlooker, part, edits, every
        self.resumed = None
        self.checkpoints = onlooker.checkpoints
        self._steps = 0

    @property
    def folder(self) -> Path:
        return self.onlooker.folder

    def due(self, part: Part, count: int) -> bool:
        return True

    def look(self, model: Model, part: Part, change: Change | None = None) -> bool:
        go = self.onlooker.look(model, part, change)
        if change is None:
            return go and self.onlooker.look(model, self.part)
        self._steps += change.steps
        if not go or self._steps % self.every:
            return go
        edit = next(self.edits, None)
        return edit is None or self.onlooker.look(model, self.part, edit)

    def save(self, checkpoint: Path) -> None:
        self.onlooker.save(checkpoint)

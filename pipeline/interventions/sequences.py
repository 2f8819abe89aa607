"""Interventions made of others: one after another, or edits between training steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

from safetensors.torch import load_model, save_model

from editors.base import Cause
from editors.data import Fact, Reader
from editors.errors import ConfigError
from editors.models.model import Model
from editors.phases import Phase, Report, silent
from pipeline.checkpoints.edits import EditCheckpoint
from pipeline.data.factset import FactSet
from pipeline.interventions.base import Change, Intervention, Part, Plan, StepObserver
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from pipeline.interventions.training.trainees import check_in_place
from pipeline.interventions.training.training import Training
from pipeline.runs.checkpoint_store import FOLDER, Saved
from pipeline.runs.signals import Requests


@dataclass(frozen=True, kw_only=True)
class InOrder(Intervention):
    """One intervention after another on the same model, each with an x-axis of its own.

    A part is prepared when it begins, on the model that the previous parts left.
    """

    name: str
    parts: Mapping[str, Intervention]
    """The parts, by any name, in order."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError(f"intervention={self.name} has no parts")
        for part in self.parts.values():
            _check_alone(self.name, part)

    @property
    def statistics(self) -> str:
        """The label of the first part that uses second moments."""
        return next((part.statistics for part in self.parts.values() if part.statistics), "")

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """Those of the part that edits."""
        return next((part.remedies for part in self.parts.values() if part.remedies), {})

    def reader(self, facts: Sequence[Fact]) -> Reader:
        """That of the part that edits, until the end of the run: training leaves facts in prompts there."""
        readers = [part.reader(facts) for part in self.parts.values()]
        return lambda prompt: reduce(lambda text, read: read(text), readers, prompt)

    def plan(self, facts: FactSet) -> Plan:
        """The plan of the part that edits; raises ConfigError if several do."""
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

    def select(self, model: Model, plan: Plan, report: Report = silent) -> Plan:
        """The plan without what a part cannot read."""
        for part in self.parts.values():
            plan = part.select(model, plan, report)
        return plan

    def prepare(self, model: Model, plan: Plan, report: Report = silent) -> None:
        """Prepare the first part."""
        next(iter(self.parts.values())).prepare(model, plan, report)

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Run one part after another, from the part of the resumed checkpoint on.

        The whole model is saved once when a later part begins; its checkpoints hold only its changes.
        """
        saved = observer.resumed
        first = saved.part if saved else 0
        for index, part in list(enumerate(self.parts.values()))[first:]:
            resumed = saved if index == first else None
            adapter = _PartAdapter(observer, index, resumed)
            if index > 0:
                if resumed is not None:
                    load_model(model.hf, adapter.base)
                    model.was_trained()
                else:
                    adapter.base.parent.mkdir(parents=True, exist_ok=True)
                    save_model(model.hf, str(adapter.base))
                    model.was_edited()
                part.prepare(model, plan, observer.report)
            part.run(model, plan, adapter)
            if adapter.stopped:
                return


@dataclass(frozen=True, kw_only=True)
class EditsBetweenSteps(Intervention):
    """A batch of edits after every few optimiser steps of one training."""

    name: str
    training: Training
    editing: KnowledgeEdit
    every: int
    """Optimiser steps between two batches of edits."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"intervention.every={self.every}, but it has to be positive")
        check_in_place(self.training.trained)
        _check_alone(self.name, self.editing)

    @property
    def statistics(self) -> str:
        """The label of the editor's second moments."""
        return self.editing.statistics

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """Those of the editor."""
        return self.editing.remedies

    def reader(self, facts: Sequence[Fact]) -> Reader:
        """That of the editor."""
        return self.editing.reader(facts)

    def plan(self, facts: FactSet) -> Plan:
        """The plan of as many edits as fit between the training steps."""
        possible = self.training.steps // self.every * self.editing.batch_size
        if not possible:
            raise ConfigError(
                f"steps={self.training.steps} leave no time for an edit every {self.every} steps"
            )
        return replace(self.editing, edits=min(self.editing.edits, possible)).plan(facts)

    def check(self, model: Model, plan: Plan) -> None:
        """Check the edits and the training."""
        self.editing.check(model, plan)
        self.training.check(model, plan)

    def select(self, model: Model, plan: Plan, report: Report = silent) -> Plan:
        """The plan without facts that cannot be edited."""
        return self.editing.select(model, plan, report)

    def prepare(self, model: Model, plan: Plan, report: Report = silent) -> None:
        """Prepare both; the editor's second moments are of the model before it is trained."""
        self.editing.prepare(model, plan, report)
        self.training.prepare(model, plan, report)

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Train, and edit after every `every` steps until there are no more facts."""
        self.training.run(model, plan, _EditingObserver(observer, self, model, plan))


def _check_alone(name: str, part: Intervention) -> None:
    """Raise a ConfigError for kept updates: they could not be applied to the model of a configuration."""
    if isinstance(part, KnowledgeEdit) and part.keep_updates:
        raise ConfigError(
            f"keep_updates=true inside intervention={name}, but only updates of a run that edits alone can "
            "be applied again: leave it out, or choose intervention=knowledge_edit"
        )


class _PartAdapter:
    """Adapts the observer of a run to one part of a sequence: it sets the part's index and folder."""

    def __init__(self, observer: StepObserver, index: int, resumed: Saved | None) -> None:
        self.observer, self.index, self.resumed = observer, index, resumed
        self.stopped = False

    @property
    def requests(self) -> Requests:
        return self.observer.requests

    @property
    def checkpoints(self) -> Path:
        return self.folder / FOLDER / str(self.index)

    @property
    def base(self) -> Path:
        """File of the model at the beginning of this part."""
        return self.checkpoints / "base.safetensors"

    @property
    def folder(self) -> Path:
        return self.observer.folder

    def due(self, part: Part, count: int) -> bool:
        return self.observer.due(replace(part, index=self.index), count)

    def look(self, model: Model, part: Part, change: Change | None = None) -> bool:
        self.stopped = not self.observer.look(model, replace(part, index=self.index), change)
        return not self.stopped

    def report(self, phase: Phase) -> None:
        self.observer.report(phase)

    def save(self, checkpoint: Path, pieces: Sequence[Path] = ()) -> None:
        self.observer.save(checkpoint, [*pieces, self.base] if self.index else pieces)


class _EditingObserver:
    """The observer of a training that measures each step, and then edits if it is time."""

    def __init__(self, observer: StepObserver, plan: EditsBetweenSteps, model: Model, facts: Plan) -> None:
        self.observer, self.editor, self.every = observer, plan.editing.editor, plan.every
        self.part = replace(plan.editing.part(facts), index=1)
        self.resumed, self.checkpoints = observer.resumed, observer.checkpoints
        self._edit_checkpoint, self._steps, self._edit_count = EditCheckpoint(self.checkpoints), 0, 0
        if self.resumed is not None:
            counts = self.resumed.state["counts"]
            self._steps, self._edit_count = self.resumed.count, counts.get(str(self.part.index), 0)
            self._edit_checkpoint.recall(self.editor, self.resumed, self._edit_count)
        self._edits = plan.editing.steps(model, facts, self._edit_count)

    @property
    def requests(self) -> Requests:
        return self.observer.requests

    @property
    def folder(self) -> Path:
        return self.observer.folder

    def due(self, part: Part, count: int) -> bool:
        return True

    def look(self, model: Model, part: Part, change: Change | None = None) -> bool:
        continues = self.observer.look(model, part, change)
        if change is None:
            return continues and self.observer.look(model, self.part)
        self._steps += change.steps
        if not continues or self._steps % self.every:
            return continues
        edit = next(self._edits, None)
        if edit is None:
            return True
        self._edit_count += len(edit.facts)
        return self.observer.look(model, self.part, edit)

    def report(self, phase: Phase) -> None:
        self.observer.report(phase)

    def save(self, checkpoint: Path, pieces: Sequence[Path] = ()) -> None:
        """Add the editor's history; the training has saved the weights, edits included."""
        self._edit_checkpoint.remember(self.editor, self._edit_count)
        self.observer.save(checkpoint, [*pieces, *self._edit_checkpoint.pieces])

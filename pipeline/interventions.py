"""What one step of a run does to the model; a run is a sequence of such steps and of looks at the result."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from analysis.stage import Unit
from editors.editor import Editor
from editors.errors import ConfigError
from editors.model.deltas import Site, WeightUpdate
from editors.model.facts import Fact
from editors.model.gradients import check_sites
from editors.model.memory import GIB, free_memory
from editors.model.model import Model
from pipeline.factset import FactSet
from pipeline.journal import Journal
from pipeline.signals import Requests
from pipeline.states import Saved
from pipeline.updates import Updates


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


class Onlooker(Protocol):
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


log = logging.getLogger(__name__)


@runtime_checkable
class Intervention(Protocol):
    """Something that changes a model step by step."""

    @property
    def name(self) -> str:
        """As in configurations and results."""
        ...

    @property
    def statistics(self) -> str:
        """Where the second moments that it rests on are from; empty where it needs none."""
        ...

    @property
    def shared(self) -> bool:
        """Whether several processes can do it together."""
        ...

    def plan(self, facts: FactSet) -> Plan:
        """What the run will do with the facts."""
        ...

    def check(self, model: Model, plan: Plan) -> None:
        """Raise for what cannot work, before anything takes long."""
        ...

    def prepare(self, model: Model, plan: Plan) -> None:
        """Do what has to be done once, before the first step."""
        ...

    def run(self, model: Model, plan: Plan, onlooker: Onlooker) -> None:
        """Change the model, step by step, and tell of each until the onlooker has seen enough."""
        ...


@dataclass(frozen=True, kw_only=True)
class KnowledgeEdit:
    """Edits facts one batch after another."""

    editor: Editor
    edits: int
    """Length of the sequence."""
    batch_size: int = 1
    """Facts in one update."""
    seed: int = 0
    """Of the order of the facts."""
    one_per_subject: bool = True
    """At most one edit of each subject: a second one would overwrite the first one's key."""
    cycle: bool = False
    """Where there are more edits than facts, edit the same facts again, to other objects."""
    save_every: int = 100
    """Edits between two states from which an interrupted run goes on; 0 saves on request alone."""
    keep_updates: bool = False
    """Keep every update in the run's folder, so that `intervention=replay` can apply it again."""
    name: str = "knowledge_edit"

    def __post_init__(self) -> None:
        if self.edits < 1:
            raise ConfigError(f"edits={self.edits}, but a run needs at least 1 edit")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}, but a batch needs at least 1 fact")
        if self.save_every < 0:
            raise ConfigError(f"intervention.save_every={self.save_every}, but it cannot be negative")

    @property
    def statistics(self) -> str:
        """The label of the editor's second moments."""
        return self.editor.statistics

    @property
    def shared(self) -> bool:
        """No: an edit is solved in one process."""
        return False

    def plan(self, facts: FactSet) -> Plan:
        """The first `edits` facts in the seed's order, of subjects that the editor was not trained on.

        Raises ConfigError where a batch would hold the same fact twice.
        """
        facts = facts.held_out() if self.editor.trained else facts
        stream = facts.stream(self.edits, self.seed, self.one_per_subject, self.cycle)
        for first in range(0, len(stream), self.batch_size):
            batch = stream[first : first + self.batch_size]
            if {fact.replaces for fact in batch} & {fact.id for fact in batch}:
                raise ConfigError(
                    f"batch_size={self.batch_size}, but with intervention.cycle=true a batch would hold a "
                    "fact twice: set a batch_size below the number of facts"
                )
        return Plan(stream=stream, others=facts.others(stream), untouched=facts.untouched(stream))

    def check(self, model: Model, plan: Plan) -> None:
        """Raise for a block or a matrix that the model does not have."""
        check_sites(model, self.editor.sites)

    def prepare(self, model: Model, plan: Plan) -> None:
        """Say how much memory an edit will need, then prepare the editor."""
        needed, free = self.editor.memory(model, plan.stream[: self.batch_size]), free_memory(model)
        log.info(
            "memory: %.2g GiB beside the model, %.1f GiB free on %s", needed / GIB, free / GIB, model.device
        )
        if needed > free:
            log.warning("this may not fit: choose a smaller batch_size or fewer layers")
        self.editor.prepare(model, plan.stream)

    def run(self, model: Model, plan: Plan, onlooker: Onlooker) -> None:
        """One batch after another, from where an interrupted run was, as long as the onlooker goes on."""
        part, journal, saved = self.part(plan), Journal(onlooker.checkpoints), onlooker.resumed
        edits = saved.count if saved else 0
        updates = Updates(onlooker.folder, edits, keep=self.keep_updates, held_out=self.editor.trained)
        if saved is not None and edits:
            journal.recall(self.editor, saved, edits)
            journal.restore(model, saved)
        elif not onlooker.look(model, part):
            return
        for change in self.steps(model, plan, edits):
            before, edits = edits, edits + len(change.facts)
            updates.add(change.facts, change.update, part.total)
            if not onlooker.look(model, part, change):
                break
            if onlooker.requests.pending or self._is_due(before, edits, part.total):
                updates.flush()
                self._save(model, journal, edits, onlooker)
        updates.flush()

    def part(self, plan: Plan) -> Part:
        """An axis of edits."""
        return Part(name=self.name, unit="edits", total=len(plan.stream), edited=self.editor.sites)

    def steps(self, model: Model, plan: Plan, made: int = 0) -> Iterator[Change]:
        """Edit, apply, commit, batch after batch, after the edits that were made already.

        The last batch may be smaller.
        """
        for first in range(made, len(plan.stream), self.batch_size):
            begun = time.perf_counter()
            change = self._step(model, plan.stream[first : first + self.batch_size])
            yield replace(change, seconds={**change.seconds, "step": time.perf_counter() - begun})

    def _is_due(self, before: int, now: int, total: int) -> bool:
        """Whether the state is saved after this batch; the end of a run needs none."""
        return self.save_every > 0 and before // self.save_every < now // self.save_every and now < total

    def _save(self, model: Model, journal: Journal, edits: int, onlooker: Onlooker) -> None:
        journal.remember(self.editor, edits)
        onlooker.save(journal.write(model, self.editor.sites, edits), journal.pieces)
        onlooker.requests.answered()

    def _step(self, model: Model, facts: Sequence[Fact]) -> Change:
        edit = self.editor.edit(model, facts)
        model.apply(edit.update)
        self.editor.commit(model, facts, edit)
        return Change(
            facts=facts,
            update=edit.update,
            seconds=edit.seconds,
            numbers={f"edit/{quantity}/mean": value for quantity, value in edit.diagnostics.items()},
            details=edit.details,
        )


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """Leaves the model as it is: the stages measure it once."""

    name: str = "none"

    @property
    def statistics(self) -> str:
        """None."""
        return ""

    @property
    def shared(self) -> bool:
        """No."""
        return False

    def plan(self, facts: FactSet) -> Plan:
        """All facts are left alone."""
        return Plan(untouched=facts.facts)

    def check(self, model: Model, plan: Plan) -> None:
        """Anything goes."""

    def prepare(self, model: Model, plan: Plan) -> None:
        """Nothing to prepare."""

    def run(self, model: Model, plan: Plan, onlooker: Onlooker) -> None:
        """One look."""
        onlooker.look(model, Part(name=self.name, unit="edits", total=0))

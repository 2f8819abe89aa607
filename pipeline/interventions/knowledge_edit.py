"""`intervention=knowledge_edit`: edits facts, one batch after another."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from analysis.inference.scoring import Scorer
from editors.base import Cause, Editor
from editors.data import Fact, Reader
from editors.errors import ConfigError
from editors.models.gradients import check_sites
from editors.models.memory import GIB, free_memory
from editors.models.model import Model
from editors.phases import Phase, Report, silent
from editors.updates import Site
from pipeline.checkpoints.edits import EditCheckpoint
from pipeline.checkpoints.kept_updates import Updates
from pipeline.data.factset import FactSet
from pipeline.interventions import distributed as processes
from pipeline.interventions.base import Change, Intervention, Part, Plan, StepObserver
from pipeline.interventions.fact_order import Order, ordered
from pipeline.interventions.unreadable_facts import Unreadable, readable

log = logging.getLogger(__name__)

_ALL_CHECKED = 100
"""Edits of a run that are checked whatever they cost: a short run is checked as a whole."""


@dataclass(frozen=True, kw_only=True)
class KnowledgeEdit(Intervention):
    """Edits facts one batch after another."""

    editor: Editor
    edits: int
    """Length of the sequence, in facts."""
    batch_size: int = 1
    """Facts in one update."""
    seed: int = 0
    """Seed of the order of the facts."""
    one_per_subject: bool = True
    """At most one edit per subject: a second one would overwrite the key of the first."""
    order: Order = "given"
    """`given` by the seed, `reverse`, or by similarity of keys, `clustered` or `dispersed`."""
    cycle: bool = False
    """If there are more edits than facts, edit the same facts again, to other objects."""
    save_every: int = 100
    """Edits between two checkpoints; 0 saves only on request."""
    unreadable: Unreadable = "refuse"
    """`refuse` a run with a fact that the model cannot read (`unreadable_facts.py`), or `skip` such facts."""
    keep_updates: bool = False
    """Keep every update in the run's folder, so that `intervention=replay` can apply it again."""
    name: str = "knowledge_edit"

    def __post_init__(self) -> None:
        if self.edits < 1:
            raise ConfigError(f"edits={self.edits}, but a run needs at least 1 edit")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}, but a batch needs at least 1 fact")
        largest = self.editor.largest_batch
        if largest is not None and self.batch_size > largest:
            raise ConfigError(
                f"batch_size={self.batch_size}, but editor={self.editor.name} edits {largest} at a time: "
                f"use batch_size={largest}, or another editor"
            )
        if self.unreadable not in get_args(Unreadable):
            raise ConfigError(
                f"intervention.unreadable={self.unreadable}, but it is one of "
                f"{', '.join(get_args(Unreadable))}"
            )
        if self.order != "given" and self.cycle:
            raise ConfigError(
                f"intervention.order={self.order} moves facts, but with intervention.cycle=true a later one "
                "replaces an earlier one: drop one of the two"
            )
        if self.save_every < 0:
            raise ConfigError(f"intervention.save_every={self.save_every}, but it cannot be negative")
        if self.order in ("clustered", "dispersed") and not self.editor.sites:
            raise ConfigError(
                f"intervention.order={self.order} compares keys of the lowest edited block, but "
                f"editor={self.editor.name} edits none: choose given or reverse"
            )
        if self.keep_updates and not self.editor.sites:
            raise ConfigError(
                f"keep_updates=true, but editor={self.editor.name} changes no matrix: leave it out"
            )

    @property
    def statistics(self) -> str:
        """The label of the editor's second moments."""
        return self.editor.statistics

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """Those of the editor."""
        return self.editor.remedies

    @property
    def shared(self) -> bool:
        """Whether there is work of a batch that several processes can share."""
        return self.editor.spreads and self.batch_size > 1

    def reader(self, facts: Sequence[Fact]) -> Reader:
        """That of the editor."""
        return self.editor.reader(facts)

    def plan(self, facts: FactSet) -> Plan:
        """The first `edits` facts in the seed's order, of subjects that the editor was not trained on.

        Raises ConfigError if a batch would hold the same fact twice.
        """
        facts = facts.held_out() if self.editor.trained else facts
        stream = facts.stream(self.edits, self.seed, self.one_per_subject, self.cycle)
        self._check_batches(stream)
        return Plan(stream=stream, others=facts.others(stream), untouched=facts.untouched(stream))

    def changes(self, plan: Plan) -> Sequence[Site]:
        """Those of the editor."""
        return self.editor.sites

    def check(self, model: Model, plan: Plan) -> None:
        """Raise a ConfigError for a block or matrix that the model does not have."""
        if self.editor.sites:
            check_sites(model, self.editor.sites)

    def select(self, model: Model, plan: Plan, report: Report = silent) -> Plan:
        """The plan in its order, without facts that the model cannot read; raises DataError if refused."""
        contexts = self.editor.contexts_of(model, plan.stream, report)
        report(Phase(name="reading the facts"))
        selected = readable(model, plan, contexts, self.unreadable, self.reader(plan.stream))
        selected = replace(selected, stream=ordered(model, selected.stream, self.order, self.editor.sites))
        self._check_batches(selected.stream)
        return selected

    def prepare(self, model: Model, plan: Plan, report: Report = silent) -> None:
        """Log how much memory an edit will need, then prepare the editor."""
        report(Phase(name="estimating memory"))
        needed, free = self.editor.memory(model, plan.stream[: self.batch_size]), free_memory(model.device)
        log.info(
            "memory: %.2g GiB beside the model, %.1f GiB free on %s", needed / GIB, free / GIB, model.device
        )
        if needed > free:
            log.warning("this may not fit: choose a smaller batch_size or fewer layers")
        self.editor.prepare(model, plan.stream, report)

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Edit one batch after another, from the resumed checkpoint on, until the observer returns False."""
        part, edit_checkpoint, saved = self.part(plan), EditCheckpoint(observer.checkpoints), observer.resumed
        edits = saved.count if saved else 0
        keep = self.keep_updates and processes.is_first()
        updates = Updates(observer.folder, edits, keep=keep, held_out=self.editor.trained)
        if saved is not None and edits:
            edit_checkpoint.recall(self.editor, saved, edits)
            edit_checkpoint.restore(model, saved)
        elif not processes.agreed(observer.look(model, part)):
            return
        for change in self.steps(model, plan, edits):
            before, edits = edits, edits + len(change.facts)
            updates.add(change.facts, change.update, part.total)
            continues = observer.look(model, part, change)
            continues, pending = processes.agreed((continues, observer.requests.pending))
            if not continues:
                break
            if pending or self._is_due(before, edits, part.total):
                updates.flush()
                self._save(model, edit_checkpoint, edits, observer)
        updates.flush()

    def part(self, plan: Plan) -> Part:
        """The part of the run that these edits form: its axis counts edits."""
        return Part(name=self.name, unit="edits", total=len(plan.stream), edited=self.editor.sites)

    def steps(self, model: Model, plan: Plan, edits: int = 0) -> Iterator[Change]:
        """Edit, apply and commit batch after batch, after the first `edits` edits.

        The last batch may be smaller.
        """
        for first in range(edits, len(plan.stream), self.batch_size):
            begun, end = time.perf_counter(), first + self.batch_size
            change = self._step(model, plan.stream[first:end])
            change = replace(change, seconds={**change.seconds, "step": time.perf_counter() - begun})
            if self._is_checked(first):
                change = _checked(model, change, self.reader(plan.stream[:end]))
            yield change

    def _check_batches(self, stream: Sequence[Fact]) -> None:
        for first in range(0, len(stream), self.batch_size):
            batch = stream[first : first + self.batch_size]
            if {fact.replaces for fact in batch} & {fact.id for fact in batch}:
                raise ConfigError(
                    f"batch_size={self.batch_size}, but with intervention.cycle=true a batch would hold a "
                    "fact twice: set a batch_size below the number of facts"
                )

    def _is_checked(self, before: int) -> bool:
        """Whether a run looks if the batch after so many edits took."""
        every = self.editor.check_every
        if every == 0 or not processes.is_first():
            return False
        return before < _ALL_CHECKED or before // self.batch_size % every == 0

    def _is_due(self, before: int, now: int, total: int) -> bool:
        """Whether a checkpoint is saved after this batch; the end of a run needs none."""
        return self.save_every > 0 and before // self.save_every < now // self.save_every and now < total

    def _save(
        self, model: Model, edit_checkpoint: EditCheckpoint, edits: int, observer: StepObserver
    ) -> None:
        if processes.is_first():
            edit_checkpoint.remember(self.editor, edits)
            observer.save(edit_checkpoint.write(model, self.editor.sites, edits), edit_checkpoint.pieces)
        observer.requests.leave = processes.agreed(observer.requests.leave)
        observer.requests.answered()

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


def _checked(model: Model, change: Change, reader: Reader) -> Change:
    """The change with `took` of each fact: 1 if the model's first choice is now the whole new object."""
    begun = time.perf_counter()
    pairs = [(fact.statement, fact.target_new) for fact in change.facts]
    exact = Scorer(model, reader=reader).score(pairs).exact.double()
    return replace(
        change,
        numbers={**change.numbers, "edit/took/mean": float(exact.mean())},
        details={**change.details, "took": exact.tolist()},
        seconds={**change.seconds, "check": time.perf_counter() - begun},
    )

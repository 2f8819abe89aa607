"""What one step of a run does to the model; a run is a sequence of such steps and of looks at the result."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import psutil
import torch

from editors.editor import Editor
from editors.errors import ConfigError
from editors.model.deltas import Site, WeightUpdate
from editors.model.facts import Fact
from editors.model.model import Model
from pipeline.factset import FactSet


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which facts a run edits, in order, and which it leaves alone."""

    stream: Sequence[Fact] = ()
    others: Sequence[Fact] = ()
    """Facts of edited subjects that are not edited themselves."""
    untouched: Sequence[Fact] = ()
    """Facts of subjects that are never edited."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one step did; the weights hold it already."""

    facts: Sequence[Fact] = ()
    update: WeightUpdate = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What is told of each fact, an entry a fact."""


log = logging.getLogger(__name__)
GIB = 2**30


@runtime_checkable
class Intervention(Protocol):
    """Something that changes a model step by step."""

    @property
    def name(self) -> str:
        """As in configurations and results."""
        ...

    @property
    def edited(self) -> Sequence[Site]:
        """Every matrix that it changes."""
        ...

    @property
    def statistics(self) -> str:
        """Where the second moments that it rests on are from; empty where it needs none."""
        ...

    def plan(self, facts: FactSet) -> Plan:
        """What the run will do with the facts."""
        ...

    def prepare(self, model: Model, plan: Plan) -> None:
        """Do what has to be done once, on the unedited model."""
        ...

    def steps(self, model: Model, plan: Plan) -> Iterator[Change]:
        """Change the model, one step at each turn."""
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
    name: str = "knowledge_edit"

    def __post_init__(self) -> None:
        if self.edits < 1:
            raise ConfigError(f"edits={self.edits}, but a run needs at least 1 edit")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}, but a batch needs at least 1 fact")

    @property
    def edited(self) -> Sequence[Site]:
        """The matrices of the editor."""
        return self.editor.sites

    @property
    def statistics(self) -> str:
        """The label of the editor's second moments."""
        return self.editor.statistics

    def plan(self, facts: FactSet) -> Plan:
        """The first `edits` facts in the order of the seed."""
        stream = facts.stream(self.edits, self.seed, self.one_per_subject)
        return Plan(stream=stream, others=facts.others(stream), untouched=facts.untouched(stream))

    def prepare(self, model: Model, plan: Plan) -> None:
        """Say how much memory an edit will need, then prepare the editor."""
        needed, free = self.editor.memory(model, plan.stream[: self.batch_size]), _free(model)
        log.info(
            "memory: %.2g GiB beside the model, %.1f GiB free on %s", needed / GIB, free / GIB, model.device
        )
        if needed > free:
            log.warning("this may not fit: choose a smaller batch_size or fewer layers")
        self.editor.prepare(model, plan.stream)

    def steps(self, model: Model, plan: Plan) -> Iterator[Change]:
        """Edit, apply, commit, batch after batch; the last batch may be smaller."""
        for first in range(0, len(plan.stream), self.batch_size):
            facts = plan.stream[first : first + self.batch_size]
            edit = self.editor.edit(model, facts)
            model.apply(edit.update)
            self.editor.commit(model, facts, edit)
            yield Change(
                facts=facts,
                update=edit.update,
                seconds=edit.seconds,
                diagnostics=edit.diagnostics,
                details=edit.details,
            )


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """Leaves the model as it is: the stages measure it once."""

    name: str = "none"

    @property
    def edited(self) -> Sequence[Site]:
        """No matrix."""
        return ()

    @property
    def statistics(self) -> str:
        """None."""
        return ""

    def plan(self, facts: FactSet) -> Plan:
        """All facts are left alone."""
        return Plan(untouched=facts.facts)

    def prepare(self, model: Model, plan: Plan) -> None:
        """Nothing to prepare."""

    def steps(self, model: Model, plan: Plan) -> Iterator[Change]:
        """No step."""
        yield from ()


def _free(model: Model) -> int:
    """Bytes that are free where the model is."""
    if model.device.type == "cuda":
        return torch.cuda.mem_get_info(model.device)[0]
    return psutil.virtual_memory().available

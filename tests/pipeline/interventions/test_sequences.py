"""Parts of a sequence, each prepared on the model that the earlier ones left."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from editors.data import Fact, Reader
from editors.models.model import Model
from editors.phases import Report, silent
from editors.updates import Delta, Site
from pipeline.data.factset import FactSet
from pipeline.interventions.base import Intervention, Plan, StepObserver
from pipeline.interventions.sequences import InOrder
from tests.tiny import FACTS, tiny_model


@dataclass
class Doubling(Intervention):
    """Notes the model that it is prepared on, then changes it."""

    name: str = "doubling"
    digests: list[str] = field(default_factory=list)

    def plan(self, facts: FactSet) -> Plan:
        return Plan()

    def prepare(self, model: Model, plan: Plan, report: Report = silent) -> None:
        self.digests.append(model.digest)

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        model.apply({Site("mlp_down", 1): Delta(left=model.weight("mlp_down", 1).clone())})


def test_the_caches_of_a_part_are_of_the_model_that_it_begins_with(tmp_path: Path):
    model, parts = tiny_model(), [Doubling(), Doubling()]
    sequence = InOrder(name="both", parts={"one": parts[0], "two": parts[1]})
    sequence.prepare(model, Plan())
    sequence.run(
        model, Plan(), cast(StepObserver, SimpleNamespace(resumed=None, folder=tmp_path, report=silent))
    )
    expected = tiny_model()
    assert parts[0].digests == [expected.digest]
    parts[0].run(expected, Plan(), cast(StepObserver, None))
    expected.was_edited()
    assert parts[1].digests == [expected.digest]


@dataclass
class Prefixing(Doubling):
    """Edits whose facts stand before prompts."""

    def reader(self, facts: Sequence[Fact]) -> Reader:
        return lambda prompt: "".join(f"{fact.id}. " for fact in facts) + prompt


def test_facts_that_one_part_puts_before_prompts_stay_there_in_the_others():
    sequence = InOrder(name="both", parts={"edits": Prefixing(), "training": Doubling()})
    assert sequence.reader(FACTS[:2])("Rob is") == "middle. start. Rob is"

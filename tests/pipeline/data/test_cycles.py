"""Editing the same facts repeatedly: the properties of every round."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hydra import compose, initialize_config_dir

from editors.data import Fact
from editors.errors import ConfigError, DataError
from pipeline.build import build
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
from pipeline.data.factset import FactSet
from pipeline.data.world.datasets import WorldFacts
from tests.pipeline.conftest import CONF

WORLD = WorldFacts().load()
SOME = FactSet(name="some", facts=WORLD.facts[:60])
OBJECTS: dict[str, set[str]] = {}
for known in SOME.facts:
    OBJECTS.setdefault(known.relation, set()).update((known.target_new, known.target_true))


def test_without_more_edits_than_facts_a_cycle_changes_nothing() -> None:
    assert SOME.stream(60, 1, cycle=True) == SOME.stream(60, 1)
    assert WORLD.stream(300, 1, True, cycle=True) == WORLD.stream(300, 1, True)


def test_every_round_edits_the_same_facts_in_order_under_other_ids() -> None:
    stream = SOME.stream(150, 1, cycle=True)
    assert len({fact.id for fact in stream}) == 150
    for number, fact in enumerate(stream[60:], start=60):
        first = stream[number % 60]
        before = stream[number - 60].id
        same = replace(first, id=f"{first.id}#{number // 60 + 1}", target_new=fact.target_new)
        assert fact == replace(same, replaces=before)


def test_a_round_edits_to_another_false_object_of_the_relation() -> None:
    stream = SOME.stream(60 * 25, 1, cycle=True)
    for place in range(60):
        turns = stream[place::60]
        others = OBJECTS[turns[0].relation] - {turns[0].target_true}
        assert {fact.target_new for fact in turns} == others, "each in its turn"
        assert all(fact.target_new != after.target_new for fact, after in pairwise(turns))


def test_a_shorter_stream_is_a_beginning_and_the_seed_sets_objects() -> None:
    stream = SOME.stream(200, 1, cycle=True)
    assert SOME.stream(130, 1, cycle=True) == stream[:130]
    assert {f.id: f.target_new for f in SOME.stream(200, 2, cycle=True)} != {
        f.id: f.target_new for f in stream
    }


def test_others_and_untouched_are_those_of_one_round() -> None:
    once, twice = (WORLD.stream(edits, 0, True, cycle=True) for edits in (500, 900))
    assert WORLD.others(once) == WORLD.others(twice)
    assert WORLD.untouched(twice) == ()


def test_without_relations_objects_are_those_of_the_prompt() -> None:
    bare = FactSet(name="bare", facts=tuple(replace(fact, relation="") for fact in WORLD.facts))
    objects: dict[str, set[str]] = {}
    for fact in bare.facts:
        objects.setdefault(fact.prompt, set()).update((fact.target_new, fact.target_true))
    for fact in bare.stream(2500, 0, cycle=True):
        assert fact.target_new in objects[fact.prompt] - {fact.target_true}


@pytest.mark.parametrize("true", ["French", ""])
def test_relations_with_too_few_objects_are_edited_once(true: str) -> None:
    fact = Fact(id="7", prompt="{} speaks", subject="Rob", target_new="Dutch", target_true=true)
    lonely = FactSet(name="lonely", facts=(fact,))
    assert lonely.stream(1, 0, cycle=True) == (fact,)
    with pytest.raises(DataError, match="edits=2, but no fact"):
        lonely.stream(2, 0, cycle=True)
    stream = replace(SOME, facts=(*SOME.facts, fact)).stream(300, 0, cycle=True)
    assert sum(edit.subject == "Rob" for edit in stream) == 1
    replaced = {edit.id for edit in stream} & {edit.replaces for edit in stream}
    assert len(stream) - len(replaced) == 61, "one edit of each fact is valid at the end"


def test_a_batch_never_holds_a_fact_twice() -> None:
    register_resolvers()

    def planned(*more: str) -> int:
        overrides = [
            "model=tiny-gpt2",
            "editor=memit",
            "data=world",
            "edits=1200",
            "+intervention.cycle=true",
        ]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", [*overrides, *more])
        parts = build(resolved(config))
        return len(parts.intervention.plan(parts.data.load()).stream)

    assert planned("batch_size=500") == 1200
    with pytest.raises(ConfigError, match=r"batch_size=501, .* a fact twice"):
        planned("batch_size=501")

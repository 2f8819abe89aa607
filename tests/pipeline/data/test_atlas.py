"""The atlas of true facts: properties of every fact, and what a model knows."""

from collections import Counter

import pytest

from editors.data import SLOT
from editors.errors import ConfigError
from pipeline.data.atlas.facts import AtlasFacts, relations

FACTS = AtlasFacts().load().facts
KNOWN = AtlasFacts(known_by="smollm2-135m").load().facts


def test_it_has_between_one_and_two_thousand_facts_of_which_a_small_model_knows_four_hundred() -> None:
    assert 1000 <= len(FACTS) <= 2000
    assert len(KNOWN) >= 400
    assert set(KNOWN) < set(FACTS)


def test_known_facts_are_of_many_relations() -> None:
    counts = Counter(fact.relation for fact in KNOWN)
    assert sum(count >= 10 for count in counts.values()) >= 15


def test_facts_have_ids_of_their_own_and_no_subject_is_twice_in_a_relation() -> None:
    assert len({fact.id for fact in FACTS}) == len(FACTS)
    assert len({(fact.relation, fact.subject) for fact in FACTS}) == len(FACTS)


@pytest.mark.parametrize("relation", relations().values(), ids=lambda relation: relation.name)
def test_every_wording_has_one_slot_and_differs_from_the_others(relation) -> None:
    wordings = [relation.prompt, *relation.paraphrases]
    assert len(set(wordings)) == len(wordings) == 3
    assert all(wording.count(SLOT) == 1 and wording == wording.strip() for wording in wordings)


def test_the_new_object_is_a_wrong_one_of_the_same_relation() -> None:
    for fact in FACTS:
        relation = relations()[fact.relation]
        assert fact.target_new in relation.objects.values()
        assert fact.target_new != fact.target_true
        assert not any({fact.target_new, fact.target_true} <= group for group in relation.similar)


def test_similar_objects_are_objects_of_their_relation() -> None:
    for relation in relations().values():
        for group in relation.similar:
            assert group <= set(relation.objects.values())


def test_neighbours_are_true_and_about_other_subjects() -> None:
    true = {(fact.statement, fact.target_true) for fact in FACTS}
    for fact in FACTS:
        assert len(fact.neighbours) <= 10
        assert all((prompt, fact.target_true) in true for prompt in fact.neighbours)
        assert fact.statement not in fact.neighbours


def test_neighbours_of_the_same_relation_come_first() -> None:
    lyon = next(fact for fact in FACTS if fact.id == "city_country/Lyon")
    assert all(prompt.startswith("The city of ") for prompt in lyon.neighbours)
    berlin = next(fact for fact in FACTS if fact.target_true == "Berlin")
    assert any("Brandenburg Gate" in prompt for prompt in berlin.neighbours)


def test_a_fact_is_the_same_whichever_others_are_loaded() -> None:
    by_id = {fact.id: fact for fact in FACTS}
    part = AtlasFacts(relations=["country_capital"], known_by="smollm2-135m").load().facts
    assert part
    assert all(by_id[fact.id] == fact for fact in part)


def test_half_of_the_known_facts_can_be_edited_and_half_kept() -> None:
    facts = AtlasFacts(known_by="smollm2-135m").load()
    edited = facts.stream(200, seed=0)
    assert len(facts.untouched(edited)) >= 200


def test_the_parts_divide_the_subjects_and_enough_known_facts_are_in_both() -> None:
    tuning, experiments = (AtlasFacts(part=part).load().facts for part in ("tuning", "experiments"))
    assert {*tuning, *experiments} == set(FACTS)
    assert not {fact.subject for fact in tuning} & {fact.subject for fact in experiments}
    known = AtlasFacts(known_by="smollm2-135m", part="tuning").load()
    assert len(known.stream(50, seed=0)) == 50
    assert len(AtlasFacts(known_by="smollm2-135m", part="experiments").load().facts) >= 400


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"part": "rest"}, "rest"),
        ({"relations": ["capital"]}, "capital"),
        ({"known_by": "gpt2-xl"}, "gpt2-xl"),
    ],
)
def test_what_it_does_not_have_is_refused_by_name(options: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        AtlasFacts(**options)

"""Facts that the model cannot read: found before the first edit, in every text that is edited or scored."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest

from editors.data import Fact
from editors.errors import ConfigError, DataError
from editors.locate.contexts import GivenContexts
from editors.methods.lti import DistilledTargets
from editors.models.model import Model
from pipeline.data.factset import FactSet
from pipeline.interventions.base import Plan
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from pipeline.interventions.unreadable_facts import Unreadable, learnable, readable
from tests.editors.cases import make_memit
from tests.tiny import FACTS, optimizer, tiny_model

LONG = "so " * 60  # tiny models have 64 positions
FINE = Fact(
    id="fine", prompt="{} works as a", subject="Ada Byron", target_new="poet", target_true="sea captain"
)
TOO_LONG: Mapping[str, Mapping[str, object]] = {
    "prompt": {"prompt": f"{LONG} {LONG} {{}} works as a"},
    "target": {"target_new": LONG * 2},
    "true object": {"target_true": LONG * 2},
    "paraphrase": {"paraphrases": ("Ada is a", LONG * 2)},
    "neighbour": {"neighbours": (LONG * 2,)},
    "question": {"locality": (("Who?", LONG * 2),)},
}


@cache
def model() -> Model:
    """The same random model for every test; nothing edits it."""
    return tiny_model()


def selected(*facts: Fact, unreadable: Unreadable = "refuse", context: str = "{}") -> Plan:
    """The selection from a plan that edits all facts and leaves them alone too."""
    plan = Plan(stream=facts, others=facts, untouched=facts)
    return readable(model(), plan, [["{}", context]] * len(facts), unreadable)


@pytest.mark.parametrize("what", TOO_LONG)
def test_a_fact_with_a_text_that_is_too_long_is_refused_by_its_id(what: str) -> None:
    fact = replace(FINE, id="7", **TOO_LONG[what])  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        DataError, match=r"cannot read 1 of 2 facts \(fact 7: '.*'… has \d+ tokens of at most 64\)"
    ):
        selected(FINE, fact)


def test_a_prompt_that_becomes_too_long_for_its_reader_is_refused() -> None:
    plan = Plan(stream=(FINE,), untouched=(FINE,))
    with pytest.raises(DataError, match="cannot read 1 of 1 facts"):
        readable(model(), plan, [["{}"]], "refuse", lambda prompt: f"{LONG}{prompt}")
    other = replace(FINE, subject="Rob")
    plan = Plan(stream=(FINE,), untouched=(FINE, other))
    kept = readable(
        model(), plan, [["{}"]], "refuse", lambda text: LONG * text.startswith("Rob works") + text
    )
    assert kept.stream == (FINE,) and kept.untouched == (FINE,)


@pytest.mark.parametrize("what", TOO_LONG)
def test_such_facts_can_be_skipped_with_a_count(what: str, caplog: pytest.LogCaptureFixture) -> None:
    fact = replace(FINE, id="7", **TOO_LONG[what])  # pyright: ignore[reportArgumentType]
    assert list(selected(FINE, fact, unreadable="skip").stream) == [FINE]
    assert "left out 1 of 2 edits: fact 7" in caplog.text


def test_the_longest_context_counts() -> None:
    near = replace(FINE, prompt="so " * 10 + "{} is")
    selected(near)
    with pytest.raises(DataError, match="cannot read 1 of 1 facts"):
        selected(near, context="The river. " * 12 + "{}")


def test_a_text_of_exactly_the_length_of_the_model_is_read() -> None:
    count = 64 - len(model().tokenizer(f"{FINE.subject} is so little")["input_ids"]) + 1
    exact = replace(FINE, prompt="{} is" + " so" * count, target_new="little", target_true="")
    while len(model().tokenizer(f"{exact.statement} little")["input_ids"]) > 64:
        exact = replace(exact, prompt=exact.prompt.removesuffix(" so"))
    assert len(model().tokenizer(f"{exact.statement} little")["input_ids"]) == 64
    assert selected(exact).stream == (exact,)
    with pytest.raises(DataError, match="has 66 tokens of at most 64"):
        selected(replace(exact, prompt=exact.prompt + " so"))


def test_a_subject_without_a_last_token_of_its_own_is_refused() -> None:
    joined = Fact(id="8", prompt="{}n admires", subject="Everyone in tow", target_new="b")
    with pytest.raises(DataError, match="fact 8: the token ' town' joins 'Everyone in tow'"):
        selected(joined)


def test_facts_that_are_only_measured_are_left_out_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    long = replace(FINE, id="7", target_true=LONG * 2)
    plan = Plan(stream=(FINE,), others=(long, FACTS[1]), untouched=(long, FACTS[0]))
    result = readable(model(), plan, [["{}"]], "refuse")
    assert (result.others, result.untouched) == ((FACTS[1],), (FACTS[0],))
    assert "left out 1 of 2 facts that are not edited" in caplog.text


def test_an_edit_that_replaces_a_skipped_one_is_skipped_too() -> None:
    first = replace(FINE, id="7", target_new=LONG * 2)
    second = replace(FINE, id="7#2", replaces="7")
    assert selected(first, second, FACTS[0], unreadable="skip").stream == (FACTS[0],)


def test_a_run_without_any_readable_fact_is_refused() -> None:
    with pytest.raises(DataError, match="cannot read 1 of 1 facts"):
        selected(replace(FINE, target_new=LONG * 2), unreadable="skip")


def editing(**changes: object) -> KnowledgeEdit:
    """An editing intervention whose editor reads facts in a long context."""
    templates = (("{}",), ("The river. " * 12 + "{}",))
    editor = make_memit(model(), targets=optimizer(), contexts=GivenContexts(templates=templates))
    return KnowledgeEdit(editor=editor, edits=2, **changes)  # pyright: ignore[reportArgumentType]


def test_an_intervention_asks_its_editor_for_the_contexts() -> None:
    near = replace(FINE, prompt="so " * 10 + "{} is")
    facts = FactSet(name="two", facts=(near, FACTS[2]))
    with pytest.raises(DataError, match="cannot read 1 of 2 facts"):
        intervention = editing()
        intervention.select(model(), intervention.plan(facts))
    intervention = editing(unreadable="skip")
    assert intervention.select(model(), intervention.plan(facts)).stream == (FACTS[2],)


def test_another_word_than_refuse_or_skip_is_named() -> None:
    with pytest.raises(ConfigError, match=r"intervention\.unreadable=drop, but it is one of refuse, skip"):
        editing(unreadable="drop")


def test_an_editor_learns_from_the_facts_that_can_be_read(caplog: pytest.LogCaptureFixture) -> None:
    long = replace(FINE, id="7", neighbours=(LONG * 2,))
    assert learnable(model(), [FINE, long, FACTS[2]]) == (FINE, FACTS[2])
    assert "left out 1 of 3 facts for an editor to learn: tiny-gpt2 cannot read them" in caplog.text


def test_the_contexts_of_lti_include_those_of_its_teacher() -> None:
    (contexts,) = DistilledTargets(middle_layer=2).contexts_of([FINE], (("{}",), ("A river. {}",)))
    assert list(contexts[:2]) == ["{}", "A river. {}"]
    assert contexts[2:] == [f"Imagine that Ada Byron works as a poet\n{text}" for text in contexts[:2]]

"""Free answers: what counts as a match, where an answer ends, and how it is asked for."""

from dataclasses import replace

import pytest

from analysis.inference.continuations import continuations
from analysis.stages.base import Observation, spread_over
from analysis.stages.generation_match import (
    INSTRUCTION,
    GenerationMatch,
    contains,
    normalised,
    until_stop,
)
from editors.errors import ConfigError
from editors.models.model import Model
from tests.tiny import FACTS, tiny_model

SEEN = Observation(count=2, total=4, seen=FACTS[:2])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Hague", "hague"),
        ("an Apple, a pear!", "apple pear"),
        ("St. Louis", "st louis"),
        ("THEATRE", "theatre"),
    ],
)
def test_answers_are_normalised_as_in_squad(text: str, plain: str):
    assert normalised(text) == plain


def test_an_object_is_contained_as_whole_words():
    assert contains("in the city of Paris, France", "Paris")
    assert contains("the United States of America", "United States")
    assert not contains("Parisian", "Paris") and not contains("Paris", "the")


def test_an_answer_ends_at_a_full_stop_or_a_line():
    assert (
        until_stop(" Rome. It is") == " Rome" and until_stop("\nRome") == "" and until_stop("Rome") == "Rome"
    )


def asked(model: Model, **options: object) -> GenerationMatch:
    stage = GenerationMatch(**options)
    stage.prepare(model, FACTS)
    return stage


def test_the_numbers_are_those_of_the_answers():
    model = tiny_model(double=False)
    (answer,) = continuations(model, [FACTS[0].statement], tokens=4)
    words = until_stop(answer).split()
    assert words
    fact = replace(FACTS[0], target_new=" ".join(words), paraphrases=(), target_true="")
    stage = GenerationMatch(tokens=4)
    stage.prepare(model, [fact])
    found = stage.measure(model, replace(SEEN, seen=[fact]))
    assert found["edit/written/rewrite.exact"] == found["edit/written/rewrite.contains"] == 1.0
    assert "edit/written/rewrite.likelier" not in found and "edit/written/paraphrase.exact" not in found
    shorter = replace(fact, target_new=words[0])
    found = stage.measure(model, replace(SEEN, seen=[shorter]))
    assert found["edit/written/rewrite.contains"] == 1.0
    assert found["edit/written/rewrite.exact"] == float(len(words) == 1)
    assert found["edit/written/rewrite.first_choice"] in (0.0, 1.0)


def test_answers_about_others_are_compared_with_those_of_the_unedited_model():
    facts = [replace(fact, neighbours=(FACTS[0].statement,)) for fact in FACTS[:2]]
    model = tiny_model(double=False)
    stage = GenerationMatch(tokens=5)
    stage.prepare(model, facts)
    seen = replace(SEEN, seen=facts)
    assert stage.measure(model, seen)["edit/written/unrelated.same"] == 1.0
    model.hf.get_output_embeddings().weight.data.neg_()
    assert stage.measure(model, seen)["edit/written/unrelated.same"] < 1.0


def test_the_planned_edits_are_asked_about_before_the_first():
    model, start = tiny_model(double=False), Observation(count=0, total=4)
    stage = asked(model, tokens=3)
    assert stage.measure(model, start) == stage.measure(model, replace(start, seen=FACTS))
    stage.prepare(model, [])
    assert stage.measure(model, start) == {}


def test_the_edits_are_spread_and_limited():
    stage = GenerationMatch(facts=2)
    assert spread_over([*FACTS, *FACTS][:4], stage.facts) == [FACTS[0], FACTS[2]]
    assert [*spread_over(FACTS[:3], replace(stage, facts=None).facts)] == [*FACTS[:3]]


def test_a_question_may_have_an_instruction_or_be_a_message():
    model = tiny_model("llama", double=False)
    assert asked(model, form="instruction")._question(model, "X is") == INSTRUCTION.format("X is")
    with pytest.raises(ConfigError, match="no chat template"):
        asked(model, form="chat")
    begin = model.tokenizer.bos_token or ""
    model.tokenizer.chat_template = "{{ bos_token }}USER {{ messages[0]['content'] }} BOT"
    text = asked(model, form="chat")._question(model, "X is")
    writes_it = model.tokenizer("").input_ids[:1] == [model.tokenizer.bos_token_id]
    assert text == ("" if writes_it else begin) + "USER X is BOT"


def test_a_model_that_broke_writes_nothing():
    model = tiny_model(double=False)
    stage = asked(model)
    model.hf.get_output_embeddings().weight.data.fill_(float("nan"))
    found = stage.measure(model, SEEN)
    assert found["edit/written/rewrite.exact"] == found["edit/written/rewrite.contains"] == 0.0

"""Stages that ask about facts read prompts through the reader of the moment."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from analysis.inference.continuations import continuations
from analysis.inference.scoring import Scorer
from analysis.stages.base import Measurement, Observation, Stage
from analysis.stages.efficacy.stage import Efficacy
from analysis.stages.generation_match import GenerationMatch, until_stop
from analysis.stages.suppression.stage import Suppression
from editors.data import Fact, Reader, as_it_is
from editors.models.model import Model
from tests.editors.cases import EDITORS
from tests.tiny import FACTS, tiny_model

BEFORE = "The river."
OTHER = Fact(id="x", prompt="{} lives in", subject=FACTS[0].subject, target_new="a", target_true="Rome")
ASKING = {
    "efficacy": lambda: Efficacy(generated_tokens=4),
    "generation_match": lambda: GenerationMatch(tokens=4),
    "suppression": Suppression,
}


def before(prompt: str) -> str:
    """A reader that puts a sentence before every prompt."""
    return f"{BEFORE} {prompt}"


def begun(fact: Fact) -> Fact:
    """The fact with that sentence in its own prompts."""
    paraphrases, neighbours = (tuple(map(before, texts)) for texts in (fact.paraphrases, fact.neighbours))
    return replace(fact, prompt=before(fact.prompt), paraphrases=paraphrases, neighbours=neighbours)


def answered(model: Model) -> list[Fact]:
    """The facts with what the model writes after the sentence and the prompt as their new object."""
    answers = continuations(model, [before(fact.statement) for fact in FACTS], tokens=4)
    words = [" ".join(until_stop(answer).split()) for answer in answers]
    assert any(words)
    return [replace(fact, target_new=word or "so") for fact, word in zip(FACTS, words, strict=True)]


def measured(stage: Stage, model: Model, facts: Sequence[Fact], reader: Reader = as_it_is) -> Measurement:
    """The numbers alone, with a second fact of the first subject beside the edits."""
    if isinstance(stage, Suppression):
        stage._known = {fact.id for fact in facts}
    moment = Observation(count=3, total=3, seen=facts, latest=facts, others=[OTHER], reader=reader)
    found = stage.measure(model, moment)
    return {key: value for key, value in found.items() if isinstance(value, float)}


@pytest.mark.parametrize("name", ASKING)
def test_what_a_reader_adds_counts_as_if_it_stood_in_the_facts(name: str):
    """The same bits; `attacked` and `unrelated` are left out, whose prompts are made of several parts."""
    model, results = tiny_model(double=False), []
    plain = answered(model)
    for facts, reader in ((plain, before), ([begun(fact) for fact in plain], as_it_is)):
        stage = ASKING[name]()
        stage.prepare(model, facts)
        others = ("edit/hushed/attacked", "edit/written/unrelated.same", "edit/known/other")
        found = measured(stage, model, facts, reader)
        results.append({key: value for key, value in found.items() if key not in others})
    assert results[0] == results[1] and results[0]
    stage = ASKING[name]()
    stage.prepare(model, plain)
    assert measured(stage, model, plain) != measured(stage, model, plain, before)


@pytest.mark.parametrize("name", ASKING)
def test_a_reader_of_one_moment_is_forgotten_at_the_next(name: str):
    model, stage = tiny_model(), ASKING[name]()
    stage.prepare(model, FACTS)
    first = measured(stage, model, FACTS)
    measured(stage, model, FACTS, before)
    assert measured(stage, model, FACTS) == first


def test_a_scorer_scores_what_its_reader_gives():
    model = tiny_model()
    pairs = [(fact.statement, target) for fact in FACTS for target in (fact.target_new, fact.target_true)]
    read = Scorer(model, reader=before).score(pairs)
    plain = Scorer(model).score([(before(prompt), target) for prompt, target in pairs])
    assert read.log_probability.tolist() == plain.log_probability.tolist()
    assert read.choices == plain.choices


@pytest.mark.parametrize("editor", EDITORS)
def test_prompts_of_a_model_with_its_edits_in_the_weights_are_read_as_they_are(editor: str):
    reader = EDITORS[editor](tiny_model()).reader(FACTS)
    assert all(reader(prompt) == prompt for fact in FACTS for prompt in (fact.statement, *fact.neighbours))

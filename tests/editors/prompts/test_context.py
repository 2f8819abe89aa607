"""Facts in context change prompts and no weights, so the contract of editors that write cannot hold."""

from dataclasses import replace

import pytest

from editors.base import Editor
from editors.data import Fact
from editors.errors import ConfigError
from editors.prompts.context import InContext
from tests.editors.cases import bits, perform, same_bits
from tests.tiny import FACTS, FAMILIES, tiny_model

TONGUE, WORK, _ = FACTS
AGAIN = replace(WORK, id="start#2", target_new="river", replaces="start")
HOME = Fact(id="home", prompt="The home of {} is", subject=WORK.subject, target_new="Rome")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_edit_changes_a_weight(family: str):
    model, editor = tiny_model(family), InContext()
    assert isinstance(editor, Editor) and not editor.sites
    editor.prepare(model, FACTS)
    before = bits(model)
    perform(model, editor, FACTS[:1], FACTS[1:])
    assert same_bits(model, before) and editor.edits == len(FACTS)
    assert editor.memory(model, FACTS) == 0


def test_a_prompt_that_mentions_a_subject_gets_its_fact():
    read = InContext().reader(FACTS)
    assert read(WORK.statement) == "New fact: Ada Byron works as a sea captain. Ada Byron works as a"
    (paraphrase,) = TONGUE.paraphrases
    told = "New fact: The mother tongue of Danielle Darrieux is English."
    assert read(paraphrase) == f"{told} {paraphrase}"


@pytest.mark.parametrize("prompt", [*TONGUE.neighbours, "Robert walks", "The river", ""])
def test_other_prompts_are_read_as_they_are(prompt: str):
    assert InContext().reader(FACTS)(prompt) == prompt


def test_without_edits_every_prompt_is_read_as_it_is():
    read = InContext().reader(())
    assert all(read(fact.statement) == fact.statement for fact in FACTS)


def test_a_later_edit_of_the_same_prompt_takes_the_place_of_the_first():
    read = InContext(template="{}.").reader([WORK, HOME, AGAIN])
    assert read("Ada Byron is") == "Ada Byron works as a river. The home of Ada Byron is Rome. Ada Byron is"


def test_a_prompt_of_two_subjects_gets_the_facts_of_both():
    read = InContext(template="{};").reader(FACTS)
    assert read("Rob met Ada Byron") == (
        "Ada Byron works as a sea captain; Everyone in town admires Rob greatly; Rob met Ada Byron"
    )


def test_braces_of_a_text_are_no_slots():
    fact = replace(WORK, target_new="{} x")
    assert InContext(template="({})").reader([fact])(WORK.statement) == (
        "(Ada Byron works as a {} x) Ada Byron works as a"
    )


@pytest.mark.parametrize("template", ["New fact.", "{} and {}"])
def test_a_template_without_its_one_slot_is_refused(template: str):
    with pytest.raises(ConfigError, match=r"editor\.template='.*' needs the slot {} exactly once"):
        InContext(template=template)


def test_a_restored_sequence_reads_the_same():
    model, editor, twin = tiny_model(), InContext(), InContext()
    perform(model, editor, FACTS[:2])
    twin.load_state_dict(editor.state_dict())
    assert twin.edits == 2
    assert twin.reader(FACTS[:2])(WORK.statement) == editor.reader(FACTS[:2])(WORK.statement)

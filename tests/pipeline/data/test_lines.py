"""Facts in one line each."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from editors.errors import DataError
from pipeline.config.overrides.quoting import with_facts
from pipeline.data.fact_files.lines import FactLines, row_of


@pytest.mark.parametrize(
    ("line", "prompt", "subject", "objects"),
    [
        ("The Eiffel Tower is in|Paris|Rome", "The {} is in", "Eiffel Tower", ("Paris", "Rome")),
        ("The capital of New Zealand is | Oslo", "The capital of {} is", "New Zealand", ("", "Oslo")),
        ("Mother tongue of [Ada King]: |English", "Mother tongue of {}:", "Ada King", ("", "English")),
        ("Who wrote Hamlet?|Shakespeare|Kyd", "Who wrote {}?", "Hamlet", ("Shakespeare", "Kyd")),
        ("[the sun] is|hot|cold", "{} is", "the sun", ("hot", "cold")),
    ],
)
def test_a_line_names_prompt_objects_and_subject(
    line: str, prompt: str, subject: str, objects: tuple[str, str]
) -> None:
    (fact,) = FactLines(facts=[line]).load().facts
    assert (fact.prompt, fact.subject) == (prompt, subject)
    assert (fact.target_true, fact.target_new) == objects


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("The cat is", "two or three parts"),
        ("The Cat is|a||b", "two or three parts"),
        ("The cat is|big", "has none: put brackets"),
        ("[Rome]|big", r"is a subject alone: .* \"\[Rome\] lives in\""),
        ("Rome is in Italy|true", r"has 2 \(Rome, Italy\): put brackets"),
        ("[Rome] is in [Italy]|true", "has 2"),
        ("[Rome] is|Rome|Rome", "identical targets"),
    ],
)
def test_a_line_without_clear_parts_is_refused(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FactLines(facts=[line]).load()


def test_all_faulty_lines_are_told_at_once() -> None:
    with pytest.raises(DataError, match=r"(?s)the cat.*Rome, Italy"):
        FactLines(facts=["the cat|sits", "Rome is in Italy|true"]).load()


def test_facts_of_a_command_line_become_data_in_quotes() -> None:
    lines = ["It's \"[Ada's]\", {x} [y]|a, b|c\\", r"Émile's $100 = ${seed}|x"]
    arguments = with_facts(["editor=rome", *(f"facts={line}" for line in lines)])
    assert arguments[0] == "editor=rome" and arguments[-1] == "edits=2"
    (override,) = OverridesParser.create().parse_overrides([arguments[2]])
    assert override.key_or_group == "data.facts"
    assert override.value() == [lines[0], lines[1].replace("${", r"\${")]


def test_an_explicit_number_of_edits_is_kept() -> None:
    assert "edits=1" in with_facts(["facts=[A] is|b", "facts=[C] is|d", "edits=1"])
    assert with_facts(["editor=rome"]) == ["editor=rome"]


def test_a_subject_of_one_letter_beyond_ascii_is_a_name() -> None:
    assert row_of("Å is in|Norway")["subject"] == "Å"

"""RippleEdits: subject and objects are read off the sentence of an edit, and its tests become questions."""

import pytest

from pipeline.data.fact_files.ripple_edits import MARKS, parse_ripple_edits
from pipeline.data.fields import Fields, Unusable
from tests.pipeline.data.test_fact_file import query_test


def case(sentence: str, relation: str, original: str | None = None, **tests: object) -> Fields:
    edit: dict[str, object] = {"prompt": sentence, "relation": relation}
    if original is not None:
        edit["original_fact"] = {"prompt": original, "relation": relation}
    return Fields(row={**{kind: [] for kind in MARKS}, "edit": edit, **tests})


@pytest.mark.parametrize(
    ("relation", "prompt", "subject", "target"),
    [
        ("MOTHER", "The name of the mother of {} is", "Ada Byron", "Anne"),
        ("COUNTRY_OF_CITIZENSHIP", "The name of the country of citizenship of {} is", "Ada", "Chad"),
        ("PLACE_OF_BIRTH", "The place of birth of {} is", "Ada", "Washington D.C."),
        ("SIBLING", "The names of the siblings of {} are", "Ada", "Allegra"),
        ("FOLLOWS", "{} follows", "Emma", "Mansfield Park"),
        ("FOLLOWED_BY", "{} is followed by", "Emma", "Persuasion"),
        ("CAPITAL_OF", "The name of the country which {} is the capital of is", "Oslo", "Chad"),
    ],
)
def test_the_sentence_gives_subject_and_object(relation: str, prompt: str, subject: str, target: str):
    fact = parse_ripple_edits(case(f"{prompt.format(subject)} {target}.", relation), "1")
    assert (fact.prompt, fact.subject, fact.target_new) == (prompt, subject, target)
    assert (fact.target_true, fact.relation, fact.portability, fact.locality) == ("", relation, (), ())


def test_the_original_fact_tells_where_the_subject_ends():
    """Without it the sentence has two readings, and the case is left out."""
    mother = "The name of the mother of"
    ambiguous = f"{mother} Love is Blind is Anne."
    with pytest.raises(Unusable) as error:
        parse_ripple_edits(case(ambiguous, "MOTHER"), "1")
    assert error.value.reason == "subject twice" and "Love is Blind" in error.value.detail
    fact = parse_ripple_edits(case(ambiguous, "MOTHER", f"{mother} Love is Eve."), "1")
    assert (fact.subject, fact.target_new, fact.target_true) == ("Love", "Blind is Anne", "Eve")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (case("The name of the mother of  is Anne.", "MOTHER"), "subject absent"),
        (case("The name of the mother of Ada is .", "MOTHER"), "subject absent"),
        (case("The name of the father of Ada is Anne.", "MOTHER"), "subject absent"),
        (case("The name of the mother of Ada is Anne.", ""), "subject absent"),
        (case("The gender of Ada is A.", "SEX_OR_GENDER", "The gender of Bob is B."), "subject absent"),
        (case("The name of the mother of Q12 is Anne.", "MOTHER"), "subject absent"),
        (case("The name of the mother of Ada is Q12.", "MOTHER"), "subject absent"),
        (case("The place of birth of Ada is A.", "PLACE_OF_BIRTH", forgetfulness=3), "missing field"),
        (case("The place of birth of Ada is A.", "PLACE_OF_BIRTH", forgetfulness=["x"]), "missing field"),
        (case("The place of birth of Ada is A.", "PLACE_OF_BIRTH", forgetfulness=[{}]), "missing field"),
        (case("The a {} of Ada is Anne.", "A_{}"), "subject absent"),
        (case(f"The name of the mother of {'a is ' * 20_000}b.", "MOTHER"), "subject twice"),
        (case(3, "MOTHER"), "missing field"),
        (Fields(row={**{kind: [] for kind in MARKS}, "edit": "x"}), "missing field"),
    ],
)  # fmt: skip
def test_a_broken_case_is_left_out_with_its_reason(row: Fields, reason: str):
    with pytest.raises(Unusable) as error:
        parse_ripple_edits(row, "1")
    assert error.value.reason == reason and error.value.detail


def test_an_original_fact_without_an_object_and_tests_that_are_not_there_are_no_mistakes():
    row = case("The gender of Ada is A.", "SEX_OR_GENDER", "The gender of Ada is .", forgetfulness=None)
    fact = parse_ripple_edits(row, "1")
    assert (fact.subject, fact.target_new, fact.target_true, fact.locality) == ("Ada", "A", "", ())


def test_questions_without_one_answer_and_repetitions_are_left_out():
    tests = [
        query_test(("Who?", "Anne"), ("Which?", "one", "two"), ("None?",)),
        query_test(("Who?", "Anne"), ("Blank?", " "), ("Id?", "Q7")),
    ]
    row = case("The place of birth of Ada is A.", "PLACE_OF_BIRTH", logical_generalization=tests)
    assert parse_ripple_edits(row, "1").portability == (("Who?", "Anne"),)

"""The layout of RippleEdits: edits whose consequences are asked for (Cohen et al. 2023, arXiv 2307.12976).

A case holds the sentence of its edit, such as "The name of the capital city of Chad is Oslo.", and six lists
of tests. Subject and objects are Wikidata ids, so their names are read off the sentence, whose wording
follows from the relation. The layout is that which the authors' code writes (edenbiran/RippleEdits, 54f3b88).

    portability   Logical_Generalization, Compositionality_I, Compositionality_II, Subject_Aliasing
    locality      Relation_Specificity, Forgetfulness: their answers stay as they were

Of a test its test queries are read, each with its one answer. Deviations from the paper: queries with several
right answers are left out, because a score of one answer would be unfair; aliases of an answer do not count;
every query counts by itself, also of tests that one of several would pass; and condition queries are not
read, so that tests count whether or not the unedited model knows what they build on.
"""

import re
from collections.abc import Iterator, Mapping

from editors.data import SLOT, Fact
from pipeline.data.fields import Fields, Unusable

FOLLOW = ("logical_generalization", "compositionality_i", "compositionality_ii", "subject_aliasing")
STAY = ("relation_specificity", "forgetfulness")
MARKS = ("edit", *FOLLOW)
"""Fields of every case, normalised; those of `STAY` may be absent."""
_ID = re.compile(r"Q\d+")
"""What stands in place of a name that Wikidata does not have."""
_PLACES = 20
"""Places at which a sentence is split, at most: a longer one names no subject that a person would find."""
_SENTENCES: Mapping[str, str] = {
    "AWARD_RECEIVED": "The name of the award {} won is",
    "CAPITAL": "The name of the capital city of {} is",
    "CAPITAL_OF": "The name of the country which {} is the capital of is",
    "CAST_MEMBER": "The names of the cast members of {} are",
    "CONTINENT": "The name of the continent which {} is part of is",
    "COUNTRY": "The name of the country which {} is associated with is",
    "CURRENCY": "The name of the currency in {} is",
    "ETHNIC_GROUP": "The name of the ethnic group which {} is associated with is",
    "FOLLOWED_BY": "{} is followed by",
    "FOLLOWS": "{} follows",
    "LEAGUE": "The name of the league which {} plays in is",
    "MEMBER_OF_SPORTS_TEAM": "The name of the sports team which {} is a member of is",
    "NATIVE_LANGUAGE": "The mother tongue of {} is",
    "NUMBER_OF_CHILDREN": "The number of children {} has is",
    "POSITION_HELD": "The name of the position held by {} is",
    "RELIGION": "The name of the religion which {} is associated with is",
    "SEX_OR_GENDER": "The gender of {} is",
    "SIBLING": "The names of the siblings of {} are",
}
"""Wordings that do not repeat the name of the relation; the object follows, and a full stop."""


def parse_ripple_edits(row: Fields, identity: str) -> Fact:
    """The fact of a case; raises `Unusable` if its sentence does not give subject and object."""
    edit = row.of("edit")
    splits = {subject: split for subject, split in _splits(edit).items() if split[1]}
    original = None if edit.row.get("original_fact") is None else _splits(edit.of("original_fact"))
    if original is not None:
        splits = {subject: split for subject, split in splits.items() if subject in original}
    if len(splits) != 1:
        sentence = f"{edit.text('prompt')[:80]!r}, {edit.name('relation') or 'no relation'}"
        way = "its sentence and that of the original fact have to give one subject, and an object"
        raise Unusable("subject twice" if splits else "subject absent", f"{sentence}: {way}")
    ((subject, (prompt, target)),) = splits.items()
    return Fact(
        id=identity,
        prompt=prompt,
        subject=subject,
        target_new=target,
        target_true="" if original is None else original[subject][1],
        relation=edit.name("relation"),
        portability=_pairs(row, FOLLOW),
        locality=_pairs(row, STAY),
    )


def _splits(fact: Fields) -> dict[str, tuple[str, str]]:
    """The subjects that the sentence may be about, each with its prompt and object, which may be empty.

    There are several if the words between the two stand in one of them as well.
    """
    text, relation = fact.text("prompt").removesuffix("."), fact.name("relation")
    words = re.sub(r"[{}_]", " ", relation.lower())
    usual = (f"The name of the {words} of {SLOT} is", f"The {words} of {SLOT} is")
    splits = {}
    for prompt in (_SENTENCES[relation],) if relation in _SENTENCES else usual:
        before, after = prompt.split(SLOT)
        pieces = text.removeprefix(before).split(f"{after} ") if text.startswith(before) else []
        for end in range(1, min(len(pieces), _PLACES + 1)):
            subject, target = (_name(f"{after} ".join(part)) for part in (pieces[:end], pieces[end:]))
            if subject:
                splits[subject] = prompt, target
    return splits


def _name(text: str) -> str:
    """The name, empty if it is only an id."""
    return "" if _ID.fullmatch(text.strip()) else text.strip()


def _pairs(row: Fields, kinds: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Prompt and answer of every test query of these kinds that has one answer, without repetitions."""
    given = [kind for kind in kinds if row.row.get(kind) is not None]
    pairs = (pair for kind in given for test in _objects(row, kind) for pair in _answered(test))
    return tuple(dict.fromkeys(pairs))


def _answered(test: Fields) -> Iterator[tuple[str, str]]:
    for query in _objects(test, "test_queries"):
        answers = _objects(query, "answers")
        if len(answers) == 1:
            yield query.text("prompt"), _name(answers[0].text("value"))


def _objects(fields: Fields, key: str) -> list[Fields]:
    """The objects listed under `key`; raises `Unusable` for anything else."""
    values = fields.row.get(key)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise Unusable("missing field", f"{key} is no list of objects")
    return [Fields(row=value) for value in values]

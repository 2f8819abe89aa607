"""Layouts of files of facts: recognised from the names of their fields, and read into facts.

Names are compared without regard to case, and with `_` for spaces and hyphens: `Target New` is `target_new`.
"""

import ast
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches

from editors.data import SLOT, Fact
from editors.errors import DataError, listed
from pipeline.data.fact_files.ripple_edits import MARKS, STAY, parse_ripple_edits
from pipeline.data.fields import Fields, Unusable, is_empty, number_text, with_slot
from pipeline.data.sources import ZsRE

Row = Mapping[str, object]

FIELDS: Mapping[str, tuple[str, ...]] = {
    "case_id": ("case_id", "id", "fact_id"),
    "subject": ("subject", "entity"),
    "prompt": ("prompt", "question", "src", "update", "template", "sentence"),
    "target_new": (
        "target_new", "new_target", "new_object", "new", "target", "answer", "ans", "object", "new_answer",
    ),
    "target_true": (
        "target_true", "ground_truth", "true_target", "true_object", "old_target", "true", "old",
        "true_answer", "old_answer",
    ),
    "relation_id": ("relation_id", "relation", "predicate"),
    "paraphrases": (
        "paraphrase_prompts", "paraphrases", "paraphrase", "rephrase_prompt", "rephrase", "rephrasings",
    ),
    "neighbours": ("neighborhood_prompts", "neighbourhood_prompts", "neighbours", "neighbors"),
    "locality_prompt": ("locality_prompt", "loc"),
    "locality_answer": ("locality_ground_truth", "loc_ans"),
    "locality": ("locality",),
    "portability_prompt": ("portability_prompt", "mhop"),
    "portability_answer": ("portability_ground_truth", "mhop_ans"),
    "portability": ("portability",),
}  # fmt: skip
"""The fields of a fact, each with the names that data sets give it; the first name in a row is read."""
_NEEDED = ("subject", "prompt", "target_new")
_QUESTION = ("locality_prompt", "loc", "prompt", "question", "new_question")
_QUESTIONS = {"locality": "unrelated questions", "portability": "questions that follow from the edit"}
"""Kinds of questions, in words."""
_ANSWER = ("locality_ground_truth", "loc_ans", "ground_truth", "answer", "new_answer")
"""The names of question and answer in an object of questions."""
_NAMES = frozenset(name for names in FIELDS.values() for name in names)


@dataclass(frozen=True)
class Layout:
    """The way in which a data set writes its facts."""

    name: str
    """As messages name it."""
    marks: tuple[str, ...]
    """Fields by which it is recognised: all of them are in the row."""
    parse: Callable[[Fields, str], Fact]
    """The fact of a row with normalised names; raises `Unusable`."""
    optional: tuple[str, ...] = ()
    """Further fields that it reads if they are there."""


def normalised(row: Row) -> dict[str, object]:
    """The row with names in small letters, with `_` for spaces and hyphens."""
    return {normalised_name(name): value for name, value in row.items()}


def normalised_name(name: str) -> str:
    """The name in small letters, with `_` for spaces and hyphens."""
    return "_".join(name.replace("-", " ").casefold().split())


def repeated_names(names: Iterable[str]) -> list[str]:
    """The normalised names that several of these names have: all but one of them would be lost."""
    counts = Counter(map(normalised_name, names))
    return [name for name, count in counts.items() if name and count > 1]


def parse_fact(row: Fields, identity: str) -> Fact:
    """The fact of a row whose fields have any of the names in `FIELDS`; raises `Unusable`."""
    flat = {**row.row, **_rewrite(row.row)}
    fields = Fields(row={field: _value(flat, names) for field, names in FIELDS.items()})
    if absent := [field for field in _NEEDED if fields.row[field] is None]:
        raise Unusable("missing field", " and ".join(absent))
    subject = _text(fields, "subject")
    prompts = [*_texts(fields, "paraphrases")], [*_texts(fields, "neighbours")]
    return Fact(
        id=identity,
        prompt=with_slot(_text(fields, "prompt"), subject),
        subject=subject,
        target_new=_object(fields, "target_new"),
        target_true="" if fields.row["target_true"] is None else _object(fields, "target_true"),
        relation=fields.name("relation_id"),
        paraphrases=tuple(prompt.replace(SLOT, subject) for prompt in prompts[0]),
        neighbours=_complete(prompts[1], "neighbours"),
        locality=_questions_of(flat, "locality"),
        portability=_questions_of(flat, "portability"),
    )


def parse_mquake(row: Fields, identity: str) -> Fact:
    """The fact of a case of MQuAKE with one edit, whose questions of several steps have a new answer.

    Raises `Unusable`. Source: Zhong et al. 2023 (arXiv 2305.14795).
    """
    edits, questions = row.row["requested_rewrite"], row.row["questions"]
    if not isinstance(edits, list) or len(edits) != 1:
        raise Unusable("several edits", "a case is read if it asks for one edit")
    asked = questions if isinstance(questions, list) else [questions]
    follow = [{"question": question, "answer": row.row["new_answer"]} for question in asked]
    own = {"case_id": row.row.get("case_id"), "requested_rewrite": edits[0], "portability": follow}
    return parse_fact(Fields(row=own), identity)


LAYOUTS = (
    Layout("RippleEdits'", MARKS, parse_ripple_edits, optional=STAY),
    Layout("MQuAKE's", ("requested_rewrite", "questions", "new_answer"), parse_mquake),
    Layout("CounterFact's", ("requested_rewrite",), parse_fact),
    Layout("CounterFact's (flat)", ("prompt", "target_new", "neighborhood_prompts"), parse_fact),
    Layout("zsRE's (MEND)", ("subject", "src", "answers"), ZsRE().parse),
    Layout("WikiBigEdit's", ("update", "ans"), parse_fact),
    Layout("QAEdit's", ("prompt", "target", "rephrase"), parse_fact),
    Layout("EasyEdit's", ("prompt", "target_new", "rephrase_prompt"), parse_fact),
    Layout("EasyEdit's", ("prompt", "target_new", "locality"), parse_fact),
    Layout("EasyEdit's", ("prompt", "target_new", "portability"), parse_fact),
    Layout("EasyEdit's", ("prompt", "target_new", "ground_truth"), parse_fact),
)
"""Known layouts, the most particular first."""
PLAIN = Layout("a plain", _NEEDED, parse_fact)
"""The layout of rows with a subject, a prompt and an object under any of their names."""


def layout_of(row: Row) -> Layout | None:
    """The layout of a row with normalised names; None if a field that every fact needs has no known name."""
    for layout in LAYOUTS:
        is_complete = layout.parse is not parse_fact or not _absent(row)
        if is_complete and all(row.get(mark) is not None for mark in layout.marks):
            return layout
    return None if _absent(row) else PLAIN


def unknown_layout(row: Row, where: str, place: str) -> DataError:
    """The error for rows of no known layout: fields that are missing, misspelt names, the nearest layout."""
    absent = _absent(row)
    names = [f"{field} (or {', '.join(FIELDS[field][1:5])})" for field in absent]
    unread = [name for name in row if name not in _NAMES]
    pairs = [*_meant(row, unread)]
    if len(absent) == len(unread) == 1:
        pairs = [(unread[0], FIELDS[absent[0]][0])]
    hints = "".join(f"; is {name!r} meant to be {close!r}?" for name, close in pairs)
    nearest = max(
        (PLAIN, *LAYOUTS), key=lambda layout: sum(mark in row for mark in layout.marks) / len(layout.marks)
    )
    fields = listed([repr(name) for name in row], most=8) or "none"
    return DataError(
        f"{place}, {where}, has no field {' and no field '.join(names)}; its fields are {fields}{hints}; "
        f"the nearest layout is {nearest.name} one, with {', '.join(nearest.marks)}"
    )


def _meant(row: Row, unread: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that are not read, each with the name of a field without a value that it may be meant to be."""
    free = {field: names for field, names in FIELDS.items() if _name(row, names) is None}
    for name in unread:
        field_of = {each: field for field, names in free.items() for each in names}
        for close in get_close_matches(name, field_of, n=1, cutoff=0.75):
            yield name, close
            del free[field_of[close]]


def unread_names(rows: Iterable[Row], layout: Layout) -> list[str]:
    """Names under which some row has a value that is not read, as `answer` beside `target`."""
    return list(
        dict.fromkeys(
            name
            for row in rows
            for read in [_read_names(row, layout)]
            for name, value in row.items()
            if value is not None and name not in read
        )
    )


def _read_names(row: Row, layout: Layout) -> set[str]:
    if layout.parse is not parse_fact:
        return {*_NAMES, *layout.marks, *layout.optional}
    flat = {**row, **_rewrite(row)}
    return {name for each in FIELDS.values() if (name := _name(flat, each))} | {*layout.marks}


def _absent(row: Row) -> list[str]:
    flat = {**row, **_rewrite(row)}
    return [field for field in _NEEDED if _value(flat, FIELDS[field]) is None]


def _rewrite(row: Row) -> Row:
    """The fields inside `requested_rewrite` of CounterFact."""
    inner = row.get("requested_rewrite")
    return normalised(inner) if isinstance(inner, Mapping) else {}


def _name(row: Row, names: Sequence[str]) -> str | None:
    """The first of the names under which there is a value."""
    return next((name for name in names if not is_empty(row.get(name))), None)


def _value(row: Row, names: Sequence[str]) -> object:
    """The first value under one of the names."""
    name = _name(row, names)
    return None if name is None else row[name]


def _text(fields: Fields, key: str) -> str:
    """A text, also in the form `{"str": text}`; a number as it is written."""
    value = fields.row[key]
    value = value.get("str") if isinstance(value, Mapping) else value
    return Fields(row={key: number_text(value)}).text(key)


def _object(fields: Fields, key: str) -> str:
    """An object; the first of a list of its names."""
    value = fields.row[key]
    while isinstance(value, list):
        if not value:
            raise Unusable("empty target", key)
        value = value[0]
    text = _text(Fields(row={key: value}), key)
    if not text:
        raise Unusable("empty target", key)
    return text


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    """One text, the texts of a list, or those of a cell between bars, as in the lines of `facts=`."""
    value = _opened(fields.row[key])
    if isinstance(value, str):
        value = [each for each in value.split("|") if each.strip()] or [value]
    return Fields(row={key: value}).texts(key)


def _complete(prompts: Sequence[str], field: str) -> tuple[str, ...]:
    """The prompts, which name subjects of their own; raises `Unusable` for a slot: nothing could fill it."""
    if any(SLOT in prompt for prompt in prompts):
        raise Unusable("subject absent", f"{field} hold {SLOT}: write a subject of their own in its place")
    return tuple(prompts)


def _opened(value: object) -> object:
    """The list or object that a cell holds, as JSON or Python writes it; else the value itself."""
    if isinstance(value, str) and value.strip().startswith(("[", "{")):
        for read in (json.loads, ast.literal_eval):
            # a deeply nested cell exhausts the stack or the memory of the parser
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return read(value)
    return value


def _questions_of(row: Row, kind: str) -> tuple[tuple[str, str], ...]:
    """Questions with answers: in fields of the row such as `locality_prompt`, or as objects under `kind`."""
    try:
        own = _question(row, FIELDS[f"{kind}_prompt"], FIELDS[f"{kind}_answer"])
        pairs = (*own, *_questions(_opened(row.get(kind))))
    except RecursionError as error:
        raise Unusable("broken text", f"{kind} is nested too deeply") from error
    _complete([prompt for prompt, _ in pairs], _QUESTIONS[kind])
    return pairs


def _questions(node: object) -> Iterator[tuple[str, str]]:
    """The questions of EasyEdit's object of lists by kind, and of QAEdit's list."""
    if isinstance(node, list):
        for item in node:
            yield from _questions(item)
    elif isinstance(node, Mapping):
        inner = normalised(node)
        yield from _question(inner, _QUESTION, _ANSWER)
        for value in inner.values():
            if isinstance(value, Mapping) or (isinstance(value, list) and not _value(inner, _QUESTION)):
                yield from _questions(value)


def _question(row: Row, prompts: Sequence[str], answers: Sequence[str]) -> Iterator[tuple[str, str]]:
    values = [_value(row, prompts), _value(row, answers)]
    if all(value not in (None, "", []) for value in values):
        # EasyEdit writes either one question or a list of them
        prompt, answer = values
        pairs = (
            zip(prompt, answer, strict=False)
            if isinstance(prompt, list) and isinstance(answer, list)
            else [(prompt, answer)]
        )
        for one, other in pairs:
            fields = Fields(row={"locality_prompt": one, "locality_answer": other})
            yield _object(fields, "locality_prompt"), _object(fields, "locality_answer")

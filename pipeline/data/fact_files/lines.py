"""Facts written on a command line: `facts="The [Eiffel Tower] is in|Paris|Rome"`.

A line is `prompt|true object|new object` or `prompt|new object`. The subject stands in brackets, or is the
only name in the prompt: words in a row that begin with capital letters.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from editors.errors import DataError
from pipeline.data.fact_files.layouts import parse_fact
from pipeline.data.factset import FactSet, read_facts
from pipeline.data.readers import Entry

_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_WORD = r"\p{Lu}[\w'’.&-]*"
_NAME = regex.compile(rf"(?<![\w'’]){_WORD}(?: {_WORD})*")
_OPENING = re.compile(
    r"(?:The|A|An|In|On|At|Of|Who|What|Which|Where|When|How|Is|Are|Was|Were|Did|Does|Do)(?: |$)"
)
"""A word that begins a sentence without being a name."""
_FORM = 'write "prompt|true object|new object" or "prompt|new object"'


@dataclass(frozen=True, kw_only=True)
class FactLines:
    """Facts of a few lines, for a demonstration."""

    facts: Sequence[str]
    """The lines."""
    name: str = "lines"

    def load(self) -> FactSet:
        """The facts in their order; raises DataError with everything that is wrong with any line."""
        problems: list[str] = []
        entries: list[Entry] = []
        for index, line in enumerate(self.facts):
            try:
                entries.append(Entry(index, f"fact {index + 1}", row_of(line)))
            except DataError as error:
                problems.append(str(error))
        factset = None if problems else read_facts(entries, parse_fact, name=self.name, source="data.facts")
        if factset is None or factset.skipped:
            skipped = [] if factset is None else [f"{row.reason}: {row}" for row in factset.skipped]
            raise DataError("\n".join([*problems, *skipped]))
        return factset


def row_of(line: str) -> dict[str, str]:
    """The fields of a line; raises DataError if it has not two or three parts, or no clear subject."""
    prompt, *objects = (part.strip() for part in line.split("|"))
    if len(objects) not in (1, 2) or not all([prompt, *objects]):
        raise DataError(f"the fact {line!r} has to have two or three parts: {_FORM}")
    before, subject, after = _divided(prompt)
    row = {"subject": subject, "prompt": f"{before}{{}}{after}", "target_new": objects[-1]}
    return row | ({"target_true": objects[0]} if len(objects) == 2 else {})


def _divided(prompt: str) -> tuple[str, str, str]:
    """The prompt before its subject, the subject, and the prompt after it."""
    spans = [(match.span(), match[1].strip()) for match in _BRACKETS.finditer(prompt)] or _names(prompt)
    if len(spans) != 1:
        seen = f"has {len(spans)} ({', '.join(name for _, name in spans)})" if spans else "has none"
        raise DataError(
            f"the prompt {prompt!r} needs one subject, but it {seen}: put brackets about one, "
            'such as "The [Eiffel Tower] is in"'
        )
    (start, end), subject = spans[0]
    before, after = prompt[:start], prompt[end:]
    if not f"{before}{after}".strip():
        raise DataError(
            f"the prompt {prompt!r} is a subject alone: write what is said about it, "
            f'such as "[{subject}] lives in"'
        )
    return before, subject, after


def _names(prompt: str) -> list[tuple[tuple[int, int], str]]:
    """Spans and texts of the names in a prompt, without a first word such as `The`."""
    names = []
    for match in _NAME.finditer(prompt):
        opening = _OPENING.match(match[0]) if match.start() == 0 else None
        start = match.start() + (opening.end() if opening else 0)
        if text := prompt[start : match.end()]:
            names.append(((start, match.end()), text))
    return names

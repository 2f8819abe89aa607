"""Fields of a row of a data set: checked, and with the reason if they make the row unusable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from editors.data import SLOT, clean
from editors.errors import DataError
from editors.prompts.mentions import mentions

Reason = Literal[
    "broken line",
    "missing field",
    "broken text",
    "unusable id",
    "subject absent",
    "subject twice",
    "empty target",
    "several edits",
    "identical targets",
    "duplicate",
    "conflicting duplicate",
]


_EXACT = 2.0**53
"""Below this every whole number is a float."""


class Unusable(Exception):
    """A row cannot become a fact; carries the reason, and what exactly is wrong or the way out."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(kw_only=True)
class Fields:
    """The fields of one row; every text is `clean`."""

    row: Mapping[str, object]
    blank: int = 0
    """Number of blank prompts that were left out so far."""

    def of(self, key: str) -> "Fields":
        """The fields of the object under `key`; raises `Unusable` if there is none."""
        inner = self.row.get(key)
        if not isinstance(inner, Mapping):
            raise Unusable("missing field", f"{key} is no object")
        return Fields(row=inner)

    def text(self, key: str) -> str:
        """The string under `key`; raises `Unusable` if there is none."""
        return _clean(self.row.get(key), key)

    def target(self, key: str) -> str:
        """The object under `key`, also in the form `{"str": object}`; raises `Unusable` if it is blank."""
        value = self.row.get(key)
        target = _clean(value.get("str") if isinstance(value, Mapping) else value, key)
        if not target:
            raise Unusable("empty target", key)
        return target

    def texts(self, key: str) -> tuple[str, ...]:
        """The strings listed under `key`; null and blank ones are left out and counted."""
        values = self.row.get(key)
        if values is None:
            return ()
        if not isinstance(values, list | tuple):
            raise Unusable("missing field", f"{key} is no list")
        texts = [_clean("" if value is None else value, key) for value in values]
        self.blank += texts.count("")
        return tuple(filter(None, texts))

    def prompt(self, key: str) -> str:
        """The string under `key`, empty and counted if it is null, absent or blank."""
        value = self.row.get(key)
        text = _clean("" if value is None else value, key)
        self.blank += not text
        return text

    def name(self, key: str) -> str:
        """A name or number under `key`; empty if there is none.

        Raises `Unusable` for anything else: a list or an object names nothing.
        """
        value = self.row.get(key)
        if is_empty(value):
            return ""
        text = number_text(value)
        if not isinstance(text, str):
            raise Unusable("unusable id", f"{key} is no text or number")
        return _clean(text, key)


def with_slot(prompt: str, subject: str) -> str:
    """The prompt with a slot in place of the subject, which must be mentioned exactly once."""
    if not subject:
        raise Unusable("subject absent", "it is empty")
    spans = mentions(subject, prompt)
    places = len(spans) + prompt.count(SLOT)
    if places != 1:
        way = f"{subject!r} in {prompt[:80]!r}: write {{}} once in place of the subject, capitals count"
        raise Unusable("subject twice" if places else "subject absent", way)
    if not spans:
        return prompt
    start, end = spans[0]
    return f"{prompt[:start]}{SLOT}{prompt[end:]}"


def is_empty(value: object) -> bool:
    """Whether a field is null, or NaN, which tables write in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number_text(value: object) -> object:
    """A finite number as text, 7.0 as 7: a table with a gap in its column of numbers holds it so.

    Anything else is returned as it is.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value
    whole = isinstance(value, float) and value.is_integer() and abs(value) < _EXACT
    return str(int(value) if whole else value)


def _clean(value: object, key: str) -> str:
    if value is None:
        raise Unusable("missing field", key)
    if not isinstance(value, str):
        raise Unusable("missing field", f"{key} is no text")
    try:
        return clean(value)
    except DataError as error:
        raise Unusable("broken text", key) from error

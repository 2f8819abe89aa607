"""Atomic writes of texts: a reader sees either the old content or all of the new content."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from editors.disk import replacing

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')
"""Strings, which may hold such words, and numbers that are not finite as Python writes them."""
_HALF = re.compile("[\ud800-\udfff]")
_NOT_FINITE = {"NaN": "null", "Infinity": "1e999", "-Infinity": "-1e999"}


def write(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically; if `durable`, it is on the disk when this returns."""
    with replacing(path, durable=durable) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, object], *, durable: bool = True) -> None:
    """Write a file in strict JSON atomically; if `durable`, it is on the disk when this returns."""
    write(path, strict_json(value) + "\n", durable=durable)


def strict_json(value: Mapping[str, object]) -> str:
    """JSON that every parser reads: NaN is null, infinity a number too large for any float (1e999).

    Halves of surrogate pairs, which no text in UTF-8 has, become the replacement character.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _HALF.sub("\ufffd", _TOKEN.sub(_strict, text))


def _strict(token: re.Match[str]) -> str:
    return _NOT_FINITE.get(token.group(), token.group())

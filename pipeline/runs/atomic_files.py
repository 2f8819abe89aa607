"""Atomic writes: a reader sees either the old content or all of the new content."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from editors.disk import sync

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')
"""Strings, which may hold such words, and numbers that are not finite as Python writes them."""
_NOT_FINITE = {"NaN": "null", "Infinity": "1e999", "-Infinity": "-1e999"}


def write(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically; if `durable`, it is on the disk when this returns."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    part.replace(path)
    if durable:
        sync(path.parent)


def write_json(path: Path, value: Mapping[str, object], *, durable: bool = True) -> None:
    """Write a file in strict JSON atomically; if `durable`, it is on the disk when this returns."""
    write(path, strict_json(value) + "\n", durable=durable)


def strict_json(value: Mapping[str, object]) -> str:
    """JSON that every parser reads: NaN is null, infinity a number too large for any float (1e999).

    Text that cannot be encoded in UTF-8 is escaped.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _TOKEN.sub(_strict, text).encode(errors="backslashreplace").decode()


def _strict(token: re.Match[str]) -> str:
    return _NOT_FINITE.get(token.group(), token.group())


def checksum(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file's content, or of its first `size` bytes, in hex digits."""
    with path.open("rb") as file:
        if size is not None:
            return hashlib.sha256(file.read(size)).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Atomic writes of texts: a reader sees either the old content or all of the new content."""

import json
from collections.abc import Mapping
from pathlib import Path

from editors.disk import replacing


def write(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically; if `durable`, it is on the disk when this returns."""
    with replacing(path, durable=durable) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, object], *, durable: bool = True) -> None:
    """Write a JSON file atomically; if `durable`, it is on the disk when this returns."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", durable=durable)

"""Atomic writes: a reader sees either the old content or all of the new content."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from editors.disk import sync


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
    """Write a JSON file atomically; if `durable`, it is on the disk when this returns."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", durable=durable)


def checksum(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file's content, or of its first `size` bytes, in hex digits."""
    with path.open("rb") as file:
        if size is not None:
            return hashlib.sha256(file.read(size)).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()

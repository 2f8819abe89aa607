"""Files that are whole: a reader sees either the old content or all of the new one."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file so that a reader sees either the old content or all of the new one.

    A durable one is on the disk when this returns.
    """
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    part.replace(path)
    if durable:
        settle_folder(path.parent)


def write_json(path: Path, value: Mapping[str, object], *, durable: bool = True) -> None:
    """Write a JSON file so that a reader sees either the old content or all of the new one."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", durable=durable)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file or it cannot be read."""
    try:
        return json_object(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def json_object(text: str) -> dict[str, Any]:
    """The object that a text holds; empty where it holds none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def settle(path: Path) -> None:
    """Wait until a file that somebody wrote is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def settle_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file's content, or of its first `size` bytes, in hex digits."""
    with path.open("rb") as file:
        if size is not None:
            return hashlib.sha256(file.read(size)).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()

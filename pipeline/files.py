"""Files that are whole: a reader sees either the old content or all of the new one."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a file so that a reader sees either the old content or all of the new one."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON file so that a reader sees either the old content or all of the new one."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

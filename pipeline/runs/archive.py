"""Reads what a run has left in its folder, and remembers where it was uploaded.

What cannot be read (a line torn by a crash, a table cut short) is told in a sentence and left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from analysis.results.run_folder import is_run
from editors.errors import DataError
from pipeline.config.former_targets import with_current_targets
from pipeline.runs.atomic_files import json_object, read_json
from pipeline.runs.checkpoint_store import COMPLETE, FOLDER
from pipeline.runs.layout import is_done

State = Literal["done", "failed", "unfinished"]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A run as it lies on disk, finished or not."""

    folder: Path
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    """What `metrics.jsonl` holds."""
    tables: Mapping[str, list[Mapping[str, object]]]
    """The rows of each Parquet file, or of its last saved state's, and of the alarms in a summary."""
    state: State
    reason: str
    """Why it failed; empty where it did not."""
    notes: tuple[str, ...]
    """Sentences about what was left out."""


def run_folders(folders: Iterable[Path]) -> list[Path]:
    """The given run folders and those inside given experiment folders, each once.

    Raises:
        DataError: where a folder neither is a run nor holds any.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        runs = [folder] if is_run(folder) else sorted(filter(is_run, _inside(folder)))
        if not runs:
            raise DataError(
                f"{folder} is no run and holds none: name an experiment, outputs/<name>, or a run inside it"
            )
        found |= dict.fromkeys(runs)
    return list(found)


def read_archive(folder: Path) -> Archive:
    """Everything that a run left; raises DataError where its configuration cannot be read."""
    rows, notes = read_rows(folder / "metrics.jsonl")
    tables, more = _tables(folder)
    state, reason = _state(folder)
    return Archive(
        folder=folder,
        config=read_config(folder),
        rows=tuple(rows),
        tables=tables,
        state=state,
        reason=reason,
        notes=(*notes, *more),
    )


def read_config(folder: Path) -> Mapping[str, Any]:
    """The resolved configuration, with the classes of today; raises DataError if it cannot be read."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{folder}/config.yaml cannot be read ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder}/config.yaml holds no configuration")
    return with_current_targets(config)


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The whole lines of a `metrics.jsonl`, and a sentence where there are others; none without the file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    rows: list[dict[str, Any]] = []
    torn: list[int] = []
    for number, line in enumerate(lines, start=1):
        row = json_object(line)
        if row:
            rows.append(row)
        else:
            torn.append(number)
    if not torn:
        return rows, []
    return rows, [f"left out {len(torn)} line(s) of {path.name} that cannot be read, the first is {torn[0]}"]


def _inside(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _tables(folder: Path) -> tuple[dict[str, list[Mapping[str, object]]], list[str]]:
    tables: dict[str, list[Mapping[str, object]]] = {}
    notes: list[str] = []
    alarms = read_json(folder / "summary.json").get("alarms")
    if alarms:
        tables["alarms"] = alarms  # a run from before there was a file of them
    for _, path in sorted(_table_files(folder).items()):
        try:
            frame = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            notes.append(f"left out {path.name}, which cannot be read ({type(error).__name__})")
            continue
        tables[path.stem] = [
            {str(key): cell for key, cell in row.items()} for row in frame.to_dict("records")
        ]
    return tables, notes


def _table_files(folder: Path) -> dict[str, Path]:
    """By name the tables of a run, or where it was interrupted those of its newest complete state."""
    states = {path.parent: read_json(path).get("size") for path in folder.glob(f"{FOLDER}/*/*/{COMPLETE}")}
    sizes = {state: size for state, size in states.items() if isinstance(size, int)}
    saved = [max(sizes, key=lambda state: sizes[state]) / "tables"] if sizes else []
    return {path.name: path for place in [*saved, folder] for path in place.glob("*.parquet")}


def _state(folder: Path) -> tuple[State, str]:
    if is_done(folder):
        return "done", ""
    failed = folder / "FAILED"
    if not failed.is_file():
        return "unfinished", ""
    return "failed", "".join(failed.read_text(encoding="utf-8", errors="replace").splitlines()[:1])

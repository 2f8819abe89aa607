"""Reads what a run has left in its folder, and remembers where it was uploaded.

What cannot be read (a line torn by a crash, a table cut short) is told in a sentence and left out.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from analysis.runs import is_run
from editors.errors import DataError
from pipeline.files import json_object, read_json, write_json
from pipeline.identity import is_done
from pipeline.states import COMPLETE, FOLDER
from pipeline.trackers import Status

State = Literal["done", "failed", "unfinished"]
CONTENT = ("config.yaml", "provenance.json", "metrics.jsonl", "summary.json", "DONE")
"""What a run is; figures can be drawn from it and copies elsewhere made anew."""
RECEIPT = "uploaded.json"


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


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Which content of a run lies where at Weights & Biases."""

    digest: str
    outcome: Status
    """How it was told to have ended."""
    id: str
    project: str
    entity: str | None
    mode: str
    folder: str
    """Its files, relative to the run's folder."""

    def write(self, folder: Path) -> None:
        """Leave it in the run's folder."""
        write_json(folder / RECEIPT, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Receipt | None":
        """The last one in a run's folder; None where there is none that can be read."""
        try:
            return cls(**json.loads((folder / RECEIPT).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def digest(folder: Path) -> str:
    """Sixteen hex digits that change with the content of a run's files: `CONTENT` and, once done, its tables.

    Without an end the tables follow from the rows; where a run fails, they and `FAILED` are written only
    after the tracker was told.
    """
    told = hashlib.sha256()
    patterns = (*CONTENT, "*.parquet") if outcome(folder) == "done" else CONTENT
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        told.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return told.hexdigest()[:16]


def outcome(folder: Path) -> Status:
    """What Weights & Biases should know: a run that did not reach its end is a failed one there."""
    return "done" if is_done(folder) else "failed"


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
    """The resolved configuration; raises DataError where it cannot be read."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{folder}/config.yaml cannot be read ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder}/config.yaml holds no configuration")
    return config


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

"""Reads the folder of one run: what it was, its numbers, its alarms, or why it has none.

Whatever cannot be read (a failed run, a line torn by a crash) is told in a sentence and left out.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml

from editors.errors import DataError

_DESCRIPTION = ("name", "editor", "model", "data", "intervention", "seed", "edits", "seconds")
"""Fields of `summary.json` that describe a run."""


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A run that contributes no numbers, and why."""

    run: str
    name: str
    """The experiment that it belongs to."""
    status: Literal["failed", "running", "unreadable"]
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run as it lies on disk."""

    description: Mapping[str, str | int | float]
    """`run`, the fields of `_DESCRIPTION`, `statistics`: what the editor's second moments rest on, and
    `stopped`: why it ended early."""
    settings: Mapping[str, str]
    """The resolved configuration, flattened: dotted key to text."""
    provenance: Mapping[str, str]
    metrics: pd.DataFrame
    """Columns edits, key, value."""
    sentences: Mapping[str, str]
    """What each alarm said, by signature; empty where nothing fired or the run is older than alarms."""
    notes: tuple[str, ...]


def is_run(folder: Path) -> bool:
    """Whether the folder is one of a run, finished or not."""
    return any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl", "DONE", "FAILED"))


def read_run(folder: Path) -> Run | Unfinished:
    """A finished run; of any other the reason why it contributes nothing."""
    run, name = _one_line(folder.name), _one_line(folder.resolve().parent.name)
    if not (folder / "DONE").exists():
        return _read_unfinished(folder, run=run, name=name)
    try:
        summary = json.loads((folder / "summary.json").read_text())
        seen, notes = _read_metrics(folder / "metrics.jsonl")
        description = {"run": run} | {field: _plain(summary[field]) for field in _DESCRIPTION}
        description["statistics"] = _plain(summary.get("statistics", "not recorded") or "none")
        description["stopped"] = "by an alarm" if summary.get("stopped") else ""
        # a run from before there were alarms has none
        alarms = summary.get("alarms", [])
        sentences = {
            _one_line(str(alarm["signature"])): _one_line(str(alarm["sentence"])) for alarm in alarms
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        sentence = f"DONE, but its files cannot be read: {type(error).__name__}: {_one_line(str(error))}"
        return Unfinished(run=run, name=name, status="unreadable", sentence=sentence)
    settings, settings_notes = _read_tree(folder / "config.yaml")
    provenance, provenance_notes = _read_tree(folder / "provenance.json")
    told = tuple(f"Run {run}: {note}" for note in (*notes, *settings_notes, *provenance_notes))
    return Run(
        description=description,
        settings=settings,
        provenance=provenance,
        metrics=seen,
        sentences=sentences,
        notes=told,
    )


def read_unmarked(folder: Path) -> Run:
    """A run from its configuration and numbers alone: it need not be marked as finished yet.

    Raises DataError when its numbers cannot be read.
    """
    settings, _ = _read_tree(folder / "config.yaml")
    try:
        metrics, notes = _read_metrics(folder / "metrics.jsonl")
    except OSError as error:
        raise DataError(f"{folder} holds no numbers of a run: metrics.jsonl, {error.strerror}") from error
    known = {field: settings.get(f"{field}.name", settings.get(field, "")) for field in _DESCRIPTION}
    edits = int(metrics["edits"].max()) if len(metrics) else 0
    unknown = {"seconds": float("nan"), "statistics": "", "stopped": ""}
    description = {"run": _one_line(folder.name), **known, "edits": edits, **unknown}
    return Run(
        description=description, settings=settings, provenance={}, metrics=metrics, sentences={}, notes=notes
    )


def flatten(tree: object, prefix: str = "") -> dict[str, str]:
    """Dotted key to text for every leaf of nested mappings; a list is a leaf."""
    if not isinstance(tree, dict):
        return {prefix: _one_line(tree if isinstance(tree, str) else json.dumps(tree, default=str))}
    pairs = ((f"{prefix}.{key}" if prefix else str(key), value) for key, value in tree.items())
    return {key: text for path, value in pairs for key, text in flatten(value, path).items()}


def _read_unfinished(folder: Path, *, run: str, name: str) -> Unfinished:
    failed = folder / "FAILED"
    if failed.exists():
        lines = failed.read_text(errors="replace").strip().splitlines() or ["no reason was recorded"]
        return Unfinished(run=run, name=name, status="failed", sentence=_one_line(lines[0]))
    sentence = "neither DONE nor FAILED: still running, or stopped and ready to be resumed"
    return Unfinished(run=run, name=name, status="running", sentence=sentence)


def _read_metrics(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Long table of a metrics.jsonl; where a resumed run repeats a step, the later line holds."""
    rows: list[tuple[int, str, float]] = []
    skipped: list[int] = []
    with path.open(errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                rows += _cells(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                skipped.append(number)
    table = pd.DataFrame(rows, columns=["edits", "key", "value"])
    table = table.astype({"edits": "int64", "key": "str", "value": "float64"})
    table = table.drop_duplicates(["edits", "key"], keep="last", ignore_index=True)
    if not skipped:
        return table, ()
    return table, (f"skipped {len(skipped)} unreadable line(s) of metrics.jsonl, first line {skipped[0]}.",)


def _cells(line: Mapping[str, object]) -> Iterator[tuple[int, str, float]]:
    edits = line["edits"]
    if not isinstance(edits, int):
        raise TypeError(f"edits is {edits!r}")
    for key, value in line.items():
        if key not in ("step", "edits") and isinstance(value, int | float) and not isinstance(value, bool):
            yield edits, key, float(value)


def _read_tree(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Flattened YAML (of which JSON is a part); empty with a note where it cannot be read."""
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        return {}, (f"{path.name} cannot be read ({type(error).__name__}).",)
    return flatten(tree) if isinstance(tree, dict) else {}, ()


def _plain(value: object) -> str | int | float:
    """Numbers as they are, everything else as one line of text."""
    return value if isinstance(value, int | float) else _one_line(str(value))


def _one_line(text: str) -> str:
    """The text without line breaks and control characters, which would disturb a terminal or a table."""
    return "".join(letter if letter.isprintable() else " " for letter in text)

"""Reads the folder of one run: what it was, its numbers, its alarms, or why it has none.

Whatever cannot be read (a failed run, a line torn by a crash) is told in a sentence and left out.
"""

import errno
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pandas as pd
import yaml

from analysis.units import UNITS
from editors.errors import DataError

_DESCRIPTION = ("name", "editor", "model", "data", "intervention", "seed", "edits", "seconds")
"""Fields of `summary.json` that describe a run."""

MOMENT = ("part", "unit", "count", "tokens")
"""Columns that say when in a run a number was measured."""

_DOING = MappingProxyType({"edits": "editing", "steps": "training"})
"""What a part is called that nobody named, by what it counts."""

# libyaml's is eight times as fast, where PyYAML was built with it
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Cell = tuple[int, str, int, int, str, float]
"""A moment, a key and its value."""


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
    """`run`, the fields of `_DESCRIPTION` (`edits`: facts in all), `steps` and `tokens` of all training,
    `statistics`: what the editor's second moments rest on, and `stopped`: why it ended early."""
    parts: tuple[str, ...]
    """What people are told that each of its parts is, such as `cpt` or an editor's name."""
    settings: Mapping[str, str]
    """The resolved configuration, flattened: dotted key to text."""
    provenance: Mapping[str, str]
    metrics: pd.DataFrame
    """Columns `MOMENT`, key, value, in the order in which they were measured."""
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
        description |= {field: int(summary.get(field, 0)) for field in ("steps", "tokens")}
        description["statistics"] = _plain(summary.get("statistics", "not recorded") or "none")
        description["stopped"] = "by an alarm" if summary.get("stopped") else ""
        parts = _parts(description, seen, summary.get("parts", []))
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
        parts=parts,
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
    provenance, _ = _read_tree(folder / "provenance.json")
    known = {field: settings.get(f"{field}.name", settings.get(field, "")) for field in _DESCRIPTION}
    known = {field: "" if value == "null" else value for field, value in known.items()}
    unknown = {"seconds": float("nan"), "statistics": "", "stopped": ""}
    description = {"run": _one_line(folder.name), **known, **_reached(metrics), **unknown}
    return Run(
        description=description,
        parts=_parts(description, metrics, _summarised(folder / "summary.json").get("parts", [])),
        settings=settings,
        provenance=provenance,
        metrics=metrics,
        sentences={},
        notes=notes,
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


def _summarised(path: Path) -> Mapping[str, Any]:
    """The summary of a run that may not have one yet."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _reached(metrics: pd.DataFrame) -> dict[str, int]:
    """Edits, optimiser steps and trained tokens in all, as the rows tell."""
    ends = metrics.groupby(["part", "unit"])["count"].max().groupby("unit").sum()
    tokens = int(metrics["tokens"].max()) if len(metrics) else 0
    return {unit: int(ends.get(unit, 0)) for unit in UNITS} | {"tokens": tokens}


def _parts(
    description: Mapping[str, object], metrics: pd.DataFrame, told: list[Mapping[str, object]]
) -> tuple[str, ...]:
    """What each part is called: the editor where facts are edited, else the part's own name.

    A name that several parts have gets a number.
    """
    editor, intervention = str(description["editor"]), str(description["intervention"])
    units = [str(part["unit"]) for part in told]
    names = [_one_line(str(part["name"])) for part in told]
    if not told:
        units = list(metrics.drop_duplicates("part").sort_values("part")["unit"]) or [UNITS[0]]
        # a run without a summary does not tell what its parts are called
        names = [intervention] if len(units) < 2 else [_DOING[unit] for unit in units]
    names = [
        editor if unit == UNITS[0] and editor else name for unit, name in zip(units, names, strict=False)
    ]
    again = {name for name in names if names.count(name) > 1}
    return tuple(
        f"{name} {names[: place + 1].count(name)}" if name in again else name
        for place, name in enumerate(names)
    )


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, or where there is none of the gzipped one; OSError where that is cut."""
    packed = path.with_name(f"{path.name}.gz")
    try:
        is_packed = packed.exists() and not path.exists()
        with gzip.open(packed, "rt", errors="replace") if is_packed else path.open(errors="replace") as lines:
            yield from lines
    except (EOFError, zlib.error) as error:
        raise OSError(errno.EIO, "is cut short or broken", str(packed)) from error


def _read_metrics(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Long table of a metrics.jsonl; where a resumed run repeats a step, the later line holds."""
    rows: list[Cell] = []
    skipped: list[int] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            rows += _cells(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            skipped.append(number)
    table = pd.DataFrame(rows, columns=[*MOMENT, "key", "value"])
    whole = dict.fromkeys(("part", "count", "tokens"), "int64")
    table = table.astype({**whole, "unit": "str", "key": "str", "value": "float64"})
    table = table.drop_duplicates(["part", "count", "key"], keep="last", ignore_index=True)
    if not skipped:
        return table, ()
    return table, (f"skipped {len(skipped)} unreadable line(s) of metrics.jsonl, first line {skipped[0]}.",)


def _cells(line: Mapping[str, object]) -> Iterator[Cell]:
    """The numbers of a row; one from before runs could train counts edits, in a single part."""
    unit = str(line.get("unit", UNITS[0]))
    part, count, tokens = line.get("part", 0), line[unit], line.get("tokens", 0)
    if unit not in UNITS or not all(isinstance(number, int) for number in (part, count, tokens)):
        raise TypeError(f"part {part!r}, unit {unit!r}, count {count!r}, tokens {tokens!r}")
    for key, value in line.items():
        if "/" in key and isinstance(value, int | float) and not isinstance(value, bool):
            yield part, unit, count, tokens, key, float(value)  # pyright: ignore[reportReturnType]


def _read_tree(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Flattened YAML (of which JSON is a part); empty with a note where it cannot be read."""
    try:
        tree = yaml.load(path.read_text(), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        return {}, (f"{path.name} cannot be read ({type(error).__name__}).",)
    return flatten(tree) if isinstance(tree, dict) else {}, ()


def _plain(value: object) -> str | int | float:
    """Numbers as they are, nothing as an empty text, everything else as one line of text."""
    if value is None:
        return ""
    return value if isinstance(value, int | float) else _one_line(str(value))


def _one_line(text: str) -> str:
    """The text without line breaks and control characters, which would disturb a terminal or a table."""
    return "".join(letter if letter.isprintable() else " " for letter in text)

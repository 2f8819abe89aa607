"""A run as numbers to compute with: the long table of its metrics, its settings and its description.

Whatever cannot be read (a failed run, a line torn by a crash) is left out with a note.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pandas as pd

from analysis.results.outcome import in_words, mostly_missed
from analysis.results.run_files import one_line
from analysis.results.run_folder import CONFIG, METRICS, PROVENANCE, SUMMARY, RunFolder, skipped
from analysis.results.seal import REMEDY
from analysis.units import UNITS
from editors.errors import DataError

_DESCRIPTION = ("name", "editor", "model", "data", "intervention", "seed", "edits", "seconds")
"""Fields of `summary.json` that describe a run."""

MOMENT = ("part", "unit", "count", "tokens")
"""Columns that say when in a run a number was measured."""

_COLUMNS = MappingProxyType(
    {"part": "int64", "unit": "str", "count": "int64", "tokens": "int64", "key": "str", "value": "float64"}
)
"""Columns of the table of metrics: those of `MOMENT`, the key and the value."""

_DEFAULT_NAMES = MappingProxyType({"edits": "editing", "steps": "training"})
"""Names of parts that the run did not name, by their unit."""

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

    folder: Path
    description: Mapping[str, str | int | float]
    """`run`: the fingerprint, the fields of `_DESCRIPTION` (`edits`: facts in all), `steps` and `tokens` of
    all training, `statistics`: source of the editor's second moments, `took`: the edits that took, as
    `outcome.in_words` says it, and `stopped`: why it ended early."""
    parts: tuple[str, ...]
    """The name of each part for people, such as `cpt` or an editor's name."""
    settings: Mapping[str, str]
    """The resolved configuration, flattened: dotted key to text."""
    provenance: Mapping[str, str]
    metrics: pd.DataFrame
    """Columns `MOMENT`, key, value, in the order in which they were measured."""
    sentences: Mapping[str, str]
    """The sentence of each alarm, by signature; empty if none fired or the run is older than alarms."""
    is_unverifiable: bool
    """Whether it is finished, but from before there were seals."""
    notes: tuple[str, ...]


def read_run(folder: RunFolder) -> Run | Unfinished:
    """The finished run; for any other run, the reason why it contributes no numbers."""
    if not folder.is_done:
        return _unfinished(folder)
    try:
        folder.verify(CONFIG, PROVENANCE)
        summary = folder.final_summary()
        if lacking := [field for field in _DESCRIPTION if field not in summary]:
            raise DataError(f"summary.json has no {', '.join(lacking)}")
        metrics, notes = _metrics(folder)
        description = {"run": folder.fingerprint} | {field: _plain(summary[field]) for field in _DESCRIPTION}
        description |= {field: int(summary.get(field, 0)) for field in ("steps", "tokens")}
        description["statistics"] = _plain(summary.get("statistics", "not recorded") or "none")
        outcome = summary.get("outcome")
        description["took"] = in_words(outcome) if outcome else ""
        description["stopped"] = "by an alarm" if summary.get("stopped") else ""
        if outcome and mostly_missed(outcome):
            notes = (*notes, f"only {description['took']}.")
        parts = _parts(description, metrics, summary.get("parts", []))
        # a run from before there were alarms has none
        alarms = summary.get("alarms", [])
        sentences = {one_line(alarm["signature"]): one_line(alarm["sentence"]) for alarm in alarms}
    except (OSError, DataError) as error:
        reason = f"{METRICS}, {error.strerror}" if isinstance(error, OSError) else one_line(str(error))
        sentence = f"DONE, but its files cannot be read: {reason}"
        return Unfinished(run=folder.name, name=folder.experiment, status="unreadable", sentence=sentence)
    settings, settings_notes = _settings(folder)
    provenance, provenance_notes = _provenance(folder)
    return Run(
        folder=folder.path,
        description=description,
        parts=parts,
        settings=settings,
        provenance=provenance,
        metrics=metrics,
        sentences=sentences,
        is_unverifiable=folder.is_unverifiable,
        notes=tuple(f"Run {folder.name}: {note}" for note in (*notes, *settings_notes, *provenance_notes)),
    )


def read_unmarked(folder: RunFolder) -> Run:
    """A run from its configuration and numbers alone: it need not be marked as finished yet.

    Raises DataError if its numbers cannot be read.
    """
    folder.verify(CONFIG, PROVENANCE, SUMMARY)
    settings, _ = _settings(folder)
    try:
        metrics, notes = _metrics(folder)
    except OSError as error:
        raise DataError(
            f"{folder.path} holds no numbers of a run: metrics.jsonl, {error.strerror}"
        ) from error
    provenance, _ = _provenance(folder)
    known = {field: settings.get(f"{field}.name", settings.get(field, "")) for field in _DESCRIPTION}
    known = {field: "" if value == "null" else value for field, value in known.items()}
    unknown = {"seconds": float("nan"), "statistics": "", "took": "", "stopped": ""}
    description = {"run": folder.fingerprint, **known, **_totals(metrics), **unknown}
    return Run(
        folder=folder.path,
        description=description,
        parts=_parts(description, metrics, folder.summary().get("parts", [])),
        settings=settings,
        provenance=provenance,
        metrics=metrics,
        sentences={},
        is_unverifiable=folder.is_unverifiable,
        notes=notes,
    )


def flatten(tree: object, prefix: str = "") -> dict[str, str]:
    """Dotted key to text for every leaf of nested mappings; a list is a leaf."""
    if not isinstance(tree, dict):
        return {prefix: one_line(tree if isinstance(tree, str) else json.dumps(tree, default=str))}
    pairs = ((one_line(f"{prefix}.{key}" if prefix else str(key)), value) for key, value in tree.items())
    return {key: text for path, value in pairs for key, text in flatten(value, path).items()}


def _unfinished(folder: RunFolder) -> Unfinished:
    if folder.state == "failed":
        return Unfinished(run=folder.name, name=folder.experiment, status="failed", sentence=folder.failure)
    sentence = "neither DONE nor FAILED: still running, or stopped and ready to be resumed"
    return Unfinished(run=folder.name, name=folder.experiment, status="running", sentence=sentence)


def _settings(folder: RunFolder) -> tuple[dict[str, str], tuple[str, ...]]:
    """The flattened configuration; empty with a note if it cannot be read."""
    try:
        return flatten(folder.config()), ()
    except DataError as error:
        return {}, (f"{str(error).removeprefix(f'{folder.path}/')}.",)


def _provenance(folder: RunFolder) -> tuple[dict[str, str], tuple[str, ...]]:
    """The flattened provenance; empty with a note if it is missing or cannot be read."""
    try:
        provenance = folder.provenance()
    except DataError as error:
        return {}, (f"{str(error).removeprefix(f'{folder.path}/')}.",)
    return (flatten(provenance), ()) if provenance else ({}, (f"{PROVENANCE} is missing.",))


def _totals(metrics: pd.DataFrame) -> dict[str, int]:
    """Edits, optimiser steps and trained tokens in all, counted from the rows."""
    ends = metrics.groupby(["part", "unit"])["count"].max().groupby("unit").sum()
    tokens = int(metrics["tokens"].max()) if len(metrics) else 0
    return {unit: int(ends.get(unit, 0)) for unit in UNITS} | {"tokens": tokens}


def _parts(
    description: Mapping[str, object], metrics: pd.DataFrame, summaries: list[Mapping[str, object]]
) -> tuple[str, ...]:
    """The name of each part: the editor's if facts are edited, else the part's own name.

    A name that several parts have gets a number.
    """
    editor, intervention = str(description["editor"]), str(description["intervention"])
    units = [str(part["unit"]) for part in summaries]
    names = [one_line(str(part["name"])) for part in summaries]
    if not summaries:
        units = list(metrics.drop_duplicates("part").sort_values("part")["unit"]) or [UNITS[0]]
        # without a summary the names of the parts are not known
        names = [intervention] if len(units) < 2 else [_DEFAULT_NAMES[unit] for unit in units]
    names = [
        editor if unit == UNITS[0] and editor else name for unit, name in zip(units, names, strict=False)
    ]
    repeated = {name for name in names if names.count(name) > 1}
    return tuple(
        f"{name} {names[: place + 1].count(name)}" if name in repeated else name
        for place, name in enumerate(names)
    )


def _metrics(folder: RunFolder) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Long table of the rows; if a resumed run repeats a step, the later row is used."""
    cells: dict[tuple[int, int, str], Cell] = {}
    unreadable: list[int] = []
    for number, row in folder.lines():
        if row is None or row.get("unit", UNITS[0]) not in row:
            unreadable.append(number)
            continue
        for cell in _cells(row):
            part, _, count, _, key, _ = cell
            cells.pop((part, count, key), None)  # the later one takes its own place
            cells[part, count, key] = cell
    if unreadable and not cells:
        raise DataError(f"{folder.path / METRICS} holds no row that can be read: {REMEDY}")
    # made column by column: that of a thousand runs takes seconds less than from rows
    values = zip(*cells.values(), strict=True) if cells else ((),) * len(_COLUMNS)
    columns = zip(_COLUMNS.items(), values, strict=True)
    table = pd.DataFrame({name: pd.Series(column, dtype=kind) for (name, kind), column in columns})
    return table, skipped(unreadable)


def _cells(row: Mapping[str, Any]) -> Iterator[Cell]:
    """The numbers of a row; one from before runs could train counts edits, in a single part."""
    unit = row.get("unit", UNITS[0])
    part, count, tokens = row.get("part", 0), row[unit], row.get("tokens", 0)
    for key, value in row.items():
        if "/" in key:
            yield part, unit, count, tokens, key, float(value)


def _plain(value: object) -> str | int | float:
    """Numbers unchanged, None as an empty text, everything else as one line of text."""
    if value is None:
        return ""
    return value if isinstance(value, int | float) else one_line(str(value))

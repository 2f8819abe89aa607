"""Reads the finished runs of an experiment into one tidy table.

An experiment folder holds run folders (`config.yaml`, `provenance.json`, `metrics.jsonl`, `summary.json` and
a `DONE` or `FAILED` marker). `collect` turns them into a long table with a row per run, edit count and metric
key. Whatever cannot be read (a failed run, a line torn by a crash) is told in a sentence and left out.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml

from editors.errors import DataError

IDENTITY = ("run", "series", "editor", "model", "intervention", "seed")
"""Columns that say which run a row of the tidy table belongs to; `edits`, `key`, `value` follow."""

_DESCRIPTION = ("name", "editor", "model", "data", "intervention", "seed", "edits", "seconds")
"""Fields of `summary.json` that describe a run."""

_NOT_A_SETTING = ("name", "seed", "resume", "launcher", "tracker", "experiment", "stage")
"""Top-level config keys that do not change what is done to the model, the seed apart."""


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
    """`run`, the fields of `_DESCRIPTION`, and `statistics`: what the editor's second moments rest on."""
    settings: Mapping[str, str]
    """The resolved configuration, flattened: dotted key to text."""
    provenance: Mapping[str, str]
    metrics: pd.DataFrame
    """Columns edits, key, value."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All runs of one or several experiments."""

    metrics: pd.DataFrame
    """Tidy: `IDENTITY`, then edits, key, value. Runs of one `series` differ by their seed alone."""
    runs: pd.DataFrame
    """A row per finished run: run, name, series, editor, model, data, intervention, seed, edits, seconds,
    statistics."""
    settings: Mapping[str, Mapping[str, str]]
    """Flattened configuration by run."""
    provenance: Mapping[str, Mapping[str, str]]
    unfinished: tuple[Unfinished, ...]
    notes: tuple[str, ...]
    """Sentences about what was skipped."""


def collect(*folders: Path) -> Collection:
    """Every finished run under the given experiment folders.

    The same run found in a second folder is counted once, or means over seeds would count it twice.
    Raises DataError when a folder is no experiment or nothing in it is finished.
    """
    found = list(chain.from_iterable(map(_run_folders, folders)))
    read = [_read_run(folder) for folder in found]
    unfinished = tuple(run for run in read if isinstance(run, Unfinished))
    runs: dict[str, Run] = {}
    notes: list[str] = []
    for run in (run for run in read if isinstance(run, Run)):
        name = str(run.description["run"])
        notes += run.notes
        if name in runs:
            notes.append(f"Run {name} of {run.description['name']} was met before and is counted once.")
        runs.setdefault(name, run)
    if not runs:
        raise DataError(_nothing_finished(folders, unfinished))
    return _combine(runs, unfinished, tuple(notes))


def flatten(tree: object, prefix: str = "") -> dict[str, str]:
    """Dotted key to text for every leaf of nested mappings; a list is a leaf."""
    if not isinstance(tree, dict):
        return {prefix: _one_line(tree if isinstance(tree, str) else json.dumps(tree, default=str))}
    pairs = ((f"{prefix}.{key}" if prefix else str(key), value) for key, value in tree.items())
    return {key: text for path, value in pairs for key, text in flatten(value, path).items()}


def _combine(
    runs: Mapping[str, Run], unfinished: tuple[Unfinished, ...], notes: tuple[str, ...]
) -> Collection:
    table = pd.DataFrame([dict(run.description) for run in runs.values()])
    settings = {name: run.settings for name, run in runs.items()}
    table.insert(2, "series", _series(table, settings))
    # Folder names are hashes; order (and with it every series' colour) must not hang on them.
    table = table.sort_values(["series", "seed", "run"], ignore_index=True)
    long = pd.concat([runs[name].metrics.assign(run=name) for name in table["run"]], ignore_index=True)
    metrics = long.merge(table[list(IDENTITY)], on="run")[[*IDENTITY, "edits", "key", "value"]]
    provenance = {name: run.provenance for name, run in runs.items()}
    return Collection(
        metrics=metrics,
        runs=table,
        settings=settings,
        provenance=provenance,
        unfinished=unfinished,
        notes=notes,
    )


def _series(runs: pd.DataFrame, settings: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A label per run, shared by the runs that differ by their seed alone.

    The editor's name, with the model, data and intervention where the runs have several, and with the
    settings that tell runs apart which agree in all of these.
    """
    parts = ["editor", *(part for part in ("model", "data", "intervention") if runs[part].nunique() > 1)]
    labels: dict[str, str] = {}
    for _, group in runs.groupby(["editor", "model", "data", "intervention"], sort=False):
        varying = varying_keys([settings[run] for run in group["run"]])
        for row in group.to_dict("records"):
            values = (f"{_short(key)}={settings[row['run']].get(key, '–')}" for key in varying)
            labels[row["run"]] = ", ".join([" · ".join(str(row[part]) for part in parts), *values])
    return [labels[run] for run in runs["run"]]


def varying_keys(settings: Iterable[Mapping[str, str]]) -> list[str]:
    """Settings in which the configurations differ, those left out that leave the edited model as it is.

    A setting that stands at several places with the same values, as interpolations do, is named once, by its
    shortest path.
    """
    given = list(settings)
    keys = dict.fromkeys(chain.from_iterable(given))
    varying = [key for key in keys if _is_setting(key) and len({one.get(key) for one in given}) > 1]
    shortest: dict[tuple[str | None, ...], str] = {}
    for key in sorted(varying, key=len):
        shortest.setdefault((_short(key), *(one.get(key) for one in given)), key)
    return [key for key in varying if key in shortest.values()]


def _is_setting(key: str) -> bool:
    last = key.rpartition(".")[2]
    # A seed further down is an interpolation of the run's seed; a class path goes with the values beside it.
    return key.partition(".")[0] not in _NOT_A_SETTING and not last.endswith("seed") and last != "_target_"


def _short(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _run_folders(experiment: Path) -> list[Path]:
    """Run folders of an experiment, in the order of their names."""
    if not experiment.is_dir():
        raise DataError(f"{experiment} is not a folder; name an experiment folder such as outputs/quickstart")
    if _is_run(experiment):
        raise DataError(
            f"{experiment} is a single run; name the experiment folder above it, {experiment.parent}"
        )
    return sorted(folder for folder in experiment.iterdir() if folder.is_dir() and _is_run(folder))


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl", "DONE", "FAILED"))


def _nothing_finished(folders: Iterable[Path], unfinished: tuple[Unfinished, ...]) -> str:
    where = " and ".join(map(str, folders))
    if not unfinished:
        return f"{where} holds no run yet; start one with python -m pipeline name=<experiment>"
    first = unfinished[0]
    return (
        f"{where} holds no finished run among {len(unfinished)}; the first, {first.run}, is {first.status}: "
        f"{first.sentence}"
    )


def _read_run(folder: Path) -> Run | Unfinished:
    run, name = _one_line(folder.name), _one_line(folder.resolve().parent.name)
    if not (folder / "DONE").exists():
        return _read_unfinished(folder, run=run, name=name)
    try:
        summary = json.loads((folder / "summary.json").read_text())
        seen, notes = _read_metrics(folder / "metrics.jsonl")
        description = {"run": run} | {field: _plain(summary[field]) for field in _DESCRIPTION}
        description["statistics"] = _plain(summary.get("statistics", "not recorded") or "none")
    except (OSError, ValueError, KeyError, TypeError) as error:
        sentence = f"DONE, but its files cannot be read: {type(error).__name__}: {_one_line(str(error))}"
        return Unfinished(run=run, name=name, status="unreadable", sentence=sentence)
    settings, settings_notes = _read_tree(folder / "config.yaml")
    provenance, provenance_notes = _read_tree(folder / "provenance.json")
    told = tuple(f"Run {run}: {note}" for note in (*notes, *settings_notes, *provenance_notes))
    return Run(description=description, settings=settings, provenance=provenance, metrics=seen, notes=told)


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

"""Reads the finished runs of an experiment into one tidy table.

An experiment folder holds run folders (`config.yaml`, `provenance.json`, `metrics.jsonl`, `summary.json` and
a `DONE` or `FAILED` marker). `collect` turns them into a long table with one row per run, moment and metric
key. Whatever cannot be read (a failed run, a line torn by a crash) is left out with a note.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd

from analysis.results.run import MOMENT, Run, Unfinished, read_run, read_unmarked
from analysis.results.run_folder import RunFolder, runs_at, runs_in
from analysis.results.seal import UNVERIFIABLE
from editors.errors import DataError

IDENTITY = ("run", "series", "editor", "model", "intervention", "seed")
"""Columns that say which run a row of the tidy table belongs to; `MOMENT`, `key`, `value` follow."""

_NOT_A_SETTING = (
    "name", "seed", "resume", "keep_weights", "launcher", "tracker", "experiment", "stage", "objective",
)  # fmt: skip
"""Top-level config keys that do not change the computation, and the seed."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All runs of one or several experiments."""

    metrics: pd.DataFrame
    """Tidy: `IDENTITY`, `MOMENT` (part, unit, count, tokens), key, value, each run in the order of measuring.

    Runs of one `series` differ by their seed alone; in runs of several parts every part has its own.
    """
    runs: pd.DataFrame
    """One row per finished run: run, name, series, editor, model, data, intervention, seed, edits, seconds,
    steps, tokens, statistics, took, stopped."""
    settings: Mapping[str, Mapping[str, str]]
    """Flattened configuration by run."""
    provenance: Mapping[str, Mapping[str, str]]
    folders: Mapping[str, Path]
    """The folder of every run, for its tables."""
    sentences: Mapping[str, Mapping[str, str]]
    """The sentence of each alarm of a run, by signature."""
    unfinished: tuple[Unfinished, ...]
    notes: tuple[str, ...]
    """Sentences on files and lines that were skipped."""


def collect(*folders: Path) -> Collection:
    """Every finished run among the folders, and in the experiments among them.

    A run that is in two folders is counted once, otherwise means over seeds would count it twice.

    Raises:
        DataError: if a path is no folder, or there is no finished run.
    """
    return _combine(*_read(folders))


def collect_by(columns: Sequence[str], *folders: Path) -> dict[tuple[object, ...], Collection]:
    """The same runs in parts: those with the same values in these columns of `Collection.runs`.

    A series is told from the others of its part alone.
    """
    runs, unfinished, notes = _read(folders)
    parts: dict[tuple[object, ...], dict[str, Run]] = {}
    for name, run in runs.items():
        parts.setdefault(tuple(run.description[column] for column in columns), {})[name] = run
    return {values: _combine(part, unfinished, notes) for values, part in parts.items()}


def _read(folders: Sequence[Path]) -> tuple[dict[str, Run], tuple[Unfinished, ...], tuple[str, ...]]:
    """The finished runs by name, the others, and remarks."""
    read = [read_run(folder) for folder in chain.from_iterable(map(_run_folders, folders))]
    unfinished = tuple(run for run in read if isinstance(run, Unfinished))
    runs: dict[str, Run] = {}
    notes: list[str] = []
    for run in (run for run in read if isinstance(run, Run)):
        name = str(run.description["run"])
        notes += run.notes
        if name in runs:
            notes.append(
                f"Run {name} of {run.description['name']} is in several folders and is counted once."
            )
        runs.setdefault(name, run)
    if older := sum(run.is_unverifiable for run in runs.values()):
        notes.append(f"The files of {older} run(s) could not be verified, because {UNVERIFIABLE}.")
    if not runs:
        raise DataError(_nothing_finished(folders, unfinished))
    return runs, unfinished, tuple(notes)


def collect_run(folder: Path) -> Collection:
    """A single run, whether it is marked as finished or not; raises DataError if its rows cannot be read."""
    run = read_unmarked(RunFolder(folder))
    return _combine({str(run.description["run"]): run}, (), run.notes)


def _combine(
    runs: Mapping[str, Run], unfinished: tuple[Unfinished, ...], notes: tuple[str, ...]
) -> Collection:
    table = pd.DataFrame([dict(run.description) for run in runs.values()])
    settings = {name: run.settings for name, run in runs.items()}
    table.insert(2, "series", _series(table, [run.parts for run in runs.values()], settings))
    # Folder names are hashes; order (and with it every series' colour) must not depend on them.
    table = table.sort_values(["series", "seed", "run"], ignore_index=True)
    long = pd.concat([runs[name].metrics.assign(run=name) for name in table["run"]], ignore_index=True)
    metrics = long.merge(table[list(IDENTITY)], on="run")[[*IDENTITY, *MOMENT, "key", "value"]]
    metrics["series"] = _by_part(metrics, {name: run.parts for name, run in runs.items()})
    provenance = {name: run.provenance for name, run in runs.items()}
    return Collection(
        metrics=metrics,
        runs=table,
        settings=settings,
        provenance=provenance,
        folders={name: run.folder for name, run in runs.items()},
        sentences={name: run.sentences for name, run in runs.items()},
        unfinished=unfinished,
        notes=notes,
    )


def _series(
    runs: pd.DataFrame, parts: Sequence[Sequence[str]], settings: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """One label per run, shared by the runs that differ in their seed alone.

    A label has the names of the parts, model and data if there are several, the intervention if runs differ
    in it alone, and the settings in which runs that agree in all of these differ.
    """
    runs = runs.assign(done=[" → ".join(names) for names in parts])
    several = [column for column in ("model", "data") if runs[column].nunique() > 1]
    labels: dict[str, str] = {}
    for _, same in runs.groupby(["done", "model", "data"], sort=False, dropna=False):
        by = ["done", *several, *(["intervention"] if same["intervention"].nunique() > 1 else [])]
        for _, group in same.groupby("intervention", sort=False):
            varying = varying_keys([settings[run] for run in group["run"]])
            brief = {key: _brief({settings[run].get(key, "–") for run in group["run"]}) for key in varying}
            for row in group.to_dict("records"):
                values = (
                    f"{_short(key)}={brief[key][settings[row['run']].get(key, '–')]}" for key in varying
                )
                labels[row["run"]] = ", ".join([" · ".join(str(row[c]) for c in by if row[c]), *values])
    return [labels[run] for run in runs["run"]]


def _by_part(metrics: pd.DataFrame, parts: Mapping[str, Sequence[str]]) -> pd.Series:
    """The series of every row; each part of a run has its own, otherwise units would be mixed."""
    moments = metrics[["run", "series", "part"]].drop_duplicates()
    labels = [
        f"{series} · {dict(enumerate(parts[run])).get(part, part + 1)}" if len(parts[run]) > 1 else series
        for run, series, part in moments.itertuples(index=False)
    ]
    named = moments.assign(label=labels).set_index(["run", "part"])["label"]
    return pd.Series(
        named.reindex(pd.MultiIndex.from_frame(metrics[["run", "part"]])).to_numpy(), dtype="str"
    )


def varying_keys(settings: Iterable[Mapping[str, str]]) -> list[str]:
    """Settings that change the edited model and in which the configurations differ.

    A setting that is at several places with the same values, as interpolations are, is listed once, by its
    shortest path. Settings that follow from a name that is listed, such as those of one control of a replay,
    are not listed.
    """
    configurations = list(settings)
    keys = dict.fromkeys(chain.from_iterable(configurations))
    varying = [
        key for key in keys if _is_setting(key) and len({values.get(key) for values in configurations}) > 1
    ]
    shortest: dict[tuple[str | None, ...], str] = {}
    for key in sorted(varying, key=len):
        shortest.setdefault((key.rpartition(".")[2], *(values.get(key) for values in configurations)), key)
    names = [key for key in shortest.values() if key.endswith(".name")]
    return [key for key in varying if key in shortest.values() and not _follows(key, names, configurations)]


def _follows(key: str, names: Sequence[str], settings: Sequence[Mapping[str, str]]) -> bool:
    """Whether only some configurations have the setting, and one of the names tells its value."""
    if all(key in values for values in settings):
        return False
    return any(
        len({(values.get(name), values.get(key)) for values in settings})
        == len({values.get(name) for values in settings})
        for name in names
    )


def _is_setting(key: str) -> bool:
    last = key.rpartition(".")[2]
    # a nested seed is an interpolation of the run's seed; a class path changes with the values beside it
    return key.partition(".")[0] not in _NOT_A_SETTING and not last.endswith("seed") and last != "_target_"


def _short(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _brief(values: set[str]) -> dict[str, str]:
    """Numbers with the fewest digits, at least three, that distinguish them; other values unchanged."""
    for digits in range(3, 17):
        brief = {value: _rounded(value, digits) for value in values}
        if len(set(brief.values())) == len(brief):
            return brief
    return {value: value for value in values}


def _rounded(value: str, digits: int) -> str:
    try:
        return f"{float(value):.{digits}g}" if len(value) > digits + 1 else value
    except ValueError:
        return value


def _run_folders(experiment: Path) -> list[RunFolder]:
    """The run itself, or the runs of an experiment in the order of their names."""
    if not experiment.is_dir():
        raise DataError(f"{experiment} is not a folder; name an experiment folder such as outputs/quickstart")
    return runs_at(experiment)


def _nothing_finished(folders: Iterable[Path], unfinished: tuple[Unfinished, ...]) -> str:
    names = " and ".join(map(str, folders))
    inside = [str(each) for folder in folders for each in sorted(folder.iterdir()) if runs_in(each)]
    if not unfinished and inside:
        return f"{names} holds experiments, not runs; name one of {', '.join(inside)}"
    if not unfinished:
        return f"{names} holds no run yet; start one with python -m pipeline name=<experiment>"
    first = unfinished[0]
    return (
        f"{names} holds no finished run among {len(unfinished)}; the first, {first.run}, is {first.status}: "
        f"{first.sentence}"
    )

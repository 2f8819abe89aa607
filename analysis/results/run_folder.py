"""The one reader of a run's folder: whether it holds a run, its outcome and all of its files.

Light: only `tables` imports pandas. A line, a file or a table that cannot be read is left out with a note, a
sentence without the name of the run. A file of a finished run that is not as it was written (`seal.py`) is
never used: every method that reads it raises DataError.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.results.former_targets import with_current_targets
from analysis.results.run_files import (
    PROVENANCES,
    Row,
    one_line,
    opened,
    read_config,
    read_lines,
    read_object,
    read_row,
    read_summary,
    read_typed,
)
from analysis.results.run_tables import read_table
from analysis.results.seal import REMEDY, Seal, unlike_last, unpacked
from editors.errors import DataError

CONFIG, METRICS, SUMMARY, PROVENANCE = "config.yaml", "metrics.jsonl", "summary.json", "provenance.json"
DONE, FAILED = "DONE", "FAILED"
MARKS = (CONFIG, METRICS, DONE, FAILED)
"""Files of which a run's folder holds at least one."""
LATEST = "latest"
"""Name of a link beside the runs of an experiment to the one that was computed last; it is no run itself."""
_NAME = re.compile(r"(?:.+-)?([0-9a-f]{10})")
"""The name of a run's folder: a label for readers, which older runs lack, and the fingerprint."""
TAIL = 1 << 16
"""Bytes at the end of `metrics.jsonl` that hold its last row."""
_SENTENCE = 1 << 12
"""Bytes at the start of `FAILED` that hold its sentence."""
STATES, COMPLETE = "state", "run.json"
"""Folder of the checkpoints of an interrupted run, and the file that completes one."""

State = Literal["done", "failed", "unfinished"]
Tables = dict[str, list[Mapping[str, object]]]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, finished or not; every method reads the disk again."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the folder, on one line: a label and the fingerprint, such as `memit-s0-3fb1395abc`."""
        return one_line(self.path.name)

    @property
    def fingerprint(self) -> str:
        """The identity of the run, at the end of its name; of a folder that is named otherwise, its name."""
        match = _NAME.fullmatch(self.name)
        return match[1] if match else self.name

    @property
    def experiment(self) -> str:
        """The name of the folder above, which is the experiment's, on one line."""
        return one_line(self.path.resolve().parent.name)

    @property
    def is_run(self) -> bool:
        """Whether this is the folder of a run, finished or not."""
        return any((self.path / name).exists() for name in MARKS)

    @property
    def is_done(self) -> bool:
        """Whether the run was computed to its end."""
        return (self.path / DONE).is_file()

    @property
    def state(self) -> State:
        """How the run ended, if it did."""
        if self.is_done:
            return "done"
        return "failed" if (self.path / FAILED).is_file() else "unfinished"

    @property
    def failure(self) -> str:
        """One sentence on why the run failed; empty if it did not."""
        if self.state != "failed":
            return ""
        try:
            with opened(self.path / FAILED) as file:
                text = file.read(_SENTENCE).decode("utf-8", errors="replace")
        except OSError as error:
            return f"{FAILED} cannot be read ({error.strerror})"
        return one_line(text.strip().partition("\n")[0].strip()) or "no reason was recorded"

    @property
    def is_unverifiable(self) -> bool:
        """Whether the run is done, but from before there were seals."""
        return self.is_done and self._seal is None

    def verify(self, *patterns: str) -> None:
        """Raise DataError if a file of the finished run that matches a pattern is not as it was written.

        Of unfinished runs nothing can be verified; of those from before there were seals only whether the
        rows end with the numbers of the summary.
        """
        seal = self._seal
        if seal is None:
            if self.is_done and METRICS in patterns:
                self._compare_rows_with_summary()
            return
        if problems := seal.problems(self.path, patterns):
            more = f", and {len(problems) - 1} more" if problems[1:] else ""
            raise DataError(
                f"{self.path} was damaged after the run was finished: {problems[0]}{more}: {REMEDY}"
            )

    def config(self) -> Row:
        """The resolved configuration, with the classes of today; raises DataError if it cannot be used."""
        self.verify(CONFIG)
        return with_current_targets(read_config(self.path / CONFIG))

    def provenance(self) -> Row:
        """Code, versions, machine and inputs; empty without a file, DataError for one that cannot be used."""
        self.verify(PROVENANCE)
        path = self.path / PROVENANCE
        return read_typed(path, PROVENANCES) if path.exists() else {}

    def summary(self) -> Row:
        """The summary of the run; empty without a file, DataError for an unusable one."""
        self.verify(SUMMARY)
        path = self.path / SUMMARY
        return read_summary(path) if path.exists() else {}

    def final_summary(self) -> Row:
        """The summary of a finished run; raises DataError if there is none that can be used."""
        self.verify(SUMMARY)
        try:
            return read_summary(self.path / SUMMARY)
        except DataError as error:
            raise DataError(
                f"{self.path} is marked DONE but its summary.json cannot be read: "
                f"delete the folder to compute the run again ({error})"
            ) from error

    def lines(self) -> Iterator[tuple[int, Row | None]]:
        """Every line of `metrics.jsonl`, or of `metrics.jsonl.gz`: its number, from 1, and its row.

        The row is None if the line holds none, such as one torn by a crash.

        Raises:
            FileNotFoundError: if there is neither file.
            DataError: if the compressed one is cut short, or rows of a finished run are lost or changed.
        """
        self.verify(METRICS)
        yield from self._lines()

    def rows(self) -> tuple[list[Row], tuple[str, ...]]:
        """The rows of `metrics.jsonl`, and notes on its other lines; no rows if there is no such file."""
        rows: list[Row] = []
        unreadable: list[int] = []
        try:
            for number, row in self.lines():
                unreadable.append(number) if row is None else rows.append(row)
        except FileNotFoundError:
            return [], ()
        return rows, skipped(unreadable)

    def last_row(self) -> Row:
        """The last whole row of `metrics.jsonl`, of which only the end is read; empty if there is none."""
        try:
            with opened(self.path / METRICS) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                lines = file.read().splitlines()
        except (OSError, DataError):
            return {}
        # the last line may be torn, and the first one begins in the middle
        return next((row for line in reversed(lines) if (row := read_row(line))), {})

    def tables(self) -> tuple[Tables, tuple[str, ...]]:
        """The rows of each Parquet file by its name, and notes on the files that cannot be read.

        An interrupted run has those of its newest complete checkpoint; the alarms of a run from before there
        was a file of them come from its summary.
        """
        alarms = self.summary().get("alarms")
        tables: Tables = {"alarms": alarms} if alarms else {}
        notes: list[str] = []
        self.verify("*.parquet")
        for _, path in sorted(self._table_files().items()):
            try:
                tables[path.stem] = read_table(path)
            except DataError as error:
                notes.append(f"left out {path.name}, which {error}")
        return tables, tuple(notes)

    def _lines(self) -> Iterator[tuple[int, Row | None]]:
        with unpacked(self.path / METRICS) as file:
            for number, line in enumerate(read_lines(file), start=1):
                yield number, read_row(line)

    def _compare_rows_with_summary(self) -> None:
        last = (read_object(self.path / SUMMARY) or {}).get("metrics")
        rows = [row for _, row in self._lines() if row is not None]
        if isinstance(last, dict) and (unlike := unlike_last(rows, last)):
            raise DataError(
                f"the rows of {self.path} do not end with the numbers of its summary.json, such as {unlike}, "
                f"so that rows were lost or changed: {REMEDY}"
            )

    @property
    def _seal(self) -> Seal | None:
        return Seal.read(self.path / DONE) if self.is_done else None

    def _table_files(self) -> dict[str, Path]:
        """Parquet files by name; those beside the rows stand for those of a checkpoint."""
        checkpoints = {
            path.parent: (read_object(path) or {}).get("size")
            for path in self.path.glob(f"{STATES}/*/*/{COMPLETE}")
        }
        sizes = {path: size for path, size in checkpoints.items() if isinstance(size, int)}
        newest = [max(sizes, key=lambda path: sizes[path]) / "tables"] if sizes else []
        return {path.name: path for folder in [*newest, self.path] for path in folder.glob("*.parquet")}


def runs_in(experiment: Path) -> list[RunFolder]:
    """The runs directly inside a folder, in the order of their names; empty if there is no such folder.

    `latest` is left out: what it links to is among them, also where a copy turned the link into a folder.
    """
    inside = sorted(experiment.iterdir()) if experiment.is_dir() else []
    return [run for run in map(RunFolder, inside) if run.is_run and run.path.name != LATEST]


def runs_at(folder: Path) -> list[RunFolder]:
    """The run whose folder it is, or the runs directly inside; empty if there are none."""
    return [RunFolder(folder)] if RunFolder(folder).is_run else runs_in(folder)


def run_folders(folders: Iterable[Path]) -> list[RunFolder]:
    """The runs among the folders and those inside the experiments among them, each once.

    Raises:
        DataError: if a folder neither is a run nor holds any.
    """
    selected: dict[RunFolder, None] = {}
    for folder in folders:
        runs = runs_at(folder)
        if not runs:
            raise DataError(
                f"{folder} is no run and holds none: name an experiment, outputs/<name>, or a run inside it"
            )
        selected |= dict.fromkeys(runs)
    return list(selected)


def skipped(numbers: list[int]) -> tuple[str, ...]:
    """The note on lines of `metrics.jsonl` that are left out; none if there are no such lines."""
    if not numbers:
        return ()
    return (f"skipped {len(numbers)} unreadable line(s) of {METRICS}, first line {numbers[0]}.",)

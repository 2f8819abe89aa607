"""Every edit of a run: `python -m pipeline ledger RUN`.

One row per edited fact, in their order: whether it took right after the edit, whether its new object is still
the first choice at the end, what its target cost, and the size of its update ‖Δ‖ if the run kept updates.
`out=FILE` writes the table as CSV.
"""

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.results.run_folder import RunFolder
from analysis.selection import RUN, selected_one
from editors.errors import DataError, NormscopeError
from editors.update_files import read_updates
from pipeline.checkpoints.kept_updates import FOLDER as UPDATES
from pipeline.paths import out_path
from pipeline.runs.layout import finished_run

Row = Mapping[str, object]
SHOWN = 50
"""Most rows that are printed; `out=FILE` has all."""
_COLUMNS: Sequence[str] = ("edit", "id", "fact", "took", "alive", "steps", "update norm")


def main(arguments: Sequence[str]) -> str | int:
    """Print or write the table; returns an exit status, or the message of an error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline ledger", description=__doc__)
    parser.add_argument("run", metavar="RUN", help=f"{RUN}, finished")
    parser.add_argument(
        "out",
        type=partial(out_path, form="FILE.csv"),
        nargs="?",
        metavar="out=FILE.csv",
        help="the file to write",
    )
    options = parser.parse_args(arguments)
    try:
        run = finished_run(selected_one(options.run))
        if options.out is None:
            _print(ledger(run, sizes=SHOWN))
        else:
            _write(ledger(run), options.out)
    except NormscopeError as error:
        return f"error: {error}"
    except OSError as error:
        return f"error: {error.filename} cannot be written: {error.strerror}"
    return 0


def ledger(run: Path, sizes: int | None = None) -> list[Row]:
    """A row per edit of a finished run; a cell is None if the run does not know.

    The size of updates, which have to be read for it, is told of the first `sizes` edits, None of all.

    Raises:
        DataError: if the run edited nothing, or a file of it cannot be used.
    """
    tables, _ = RunFolder(run).tables()
    edits = tables.get("edits", [])
    if not edits:
        raise DataError(f"{run} edited no facts: its summary says what it did")
    ends = {record.get("id"): record for record in tables.get("records", [])}
    norms = _norms(run, len(edits) if sizes is None else sizes)
    return [
        {
            "edit": edit.get("edit"),
            "id": edit.get("id"),
            "fact": _sentence(ends.get(edit.get("id"), {})),
            "took": _flag(edit.get("took")),
            "alive": _flag(ends.get(edit.get("id"), {}).get("accuracy.rewrite")),
            "steps": edit.get("optimiser_steps"),
            "update norm": norms.get(str(edit.get("id"))),
        }
        for edit in edits
    ]


def _norms(run: Path, edits: int) -> dict[str, float]:
    """‖Δ‖ over all matrices of the update that wrote each of the first edits; its batch shares it."""
    norms: dict[str, float] = {}
    for batch in read_updates(run / UPDATES) if (run / UPDATES).is_dir() else []:
        if len(norms) >= edits:
            break
        RunFolder(run).verify(f"{UPDATES}/{batch.path.name}")
        norm = sum(delta.square() for delta in batch.update.values()) ** 0.5
        norms.update((fact, norm) for fact in batch.facts)
    return norms


def _sentence(record: Row) -> str | None:
    """The prompt with its subject, and the new object."""
    if not record:
        return None
    prompt = str(record.get("prompt", "")).replace("{}", str(record.get("subject", "")), 1)
    return f"{prompt} {record.get('target_new', '')}"


def _flag(value: object) -> bool | None:
    return None if value is None or value != value else bool(value)


def _print(rows: Sequence[Row]) -> None:
    table = Table(*_COLUMNS)
    for row in rows[:SHOWN]:
        table.add_row(*(escape(_cell(row[name])) for name in _COLUMNS))
    console = Console()
    console.print(table)
    for name, sentence in (("took", "took"), ("alive", "are alive at the end")):
        known = [row[name] for row in rows if row[name] is not None]
        if known:
            console.print(f"{sum(map(bool, known))} of {len(known)} edits {sentence}")
    if rows[SHOWN:]:
        console.print(f"{len(rows) - SHOWN} more: out=FILE.csv writes all")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)


def _write(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(path, file=sys.stdout)  # noqa: T201 - for scripts

"""Facts from a file of any known layout, CSV or JSON: `data=file data.path=FACTS`."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from editors.data import Fact
from editors.errors import ConfigError, DataError, listed
from pipeline.data.fact_files.layouts import (
    FIELDS,
    Layout,
    layout_of,
    normalised,
    repeated_names,
    unknown_layout,
)
from pipeline.data.fact_files.tables import read_rows
from pipeline.data.factset import FactSet, read_facts
from pipeline.data.readers import Entry

log = logging.getLogger(__name__)

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")
"""What a cell of the column `known` may say."""


@dataclass(frozen=True, kw_only=True)
class FactFile:
    """The facts of a local file; its layout is recognised from the names of its fields (`layouts.py`)."""

    name: str
    path: str
    """CSV or TSV with a header, a JSON list, or JSON lines; in UTF-8, also gzipped."""
    limit: int | None = None
    """Number of usable facts to read, from the beginning; null reads all."""
    drop_conflicts: bool = False
    """Keep only the first of several facts about the same subject and relation, as MultiCounterFact does."""
    known: bool = False
    """Read only rows whose field `known` is true, which `python -m pipeline facts … out=FILE` writes."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit={self.limit}, but at least 1 fact is needed (null reads all)")

    def load(self) -> FactSet:
        """The validated facts; raises DataError if the file has none, or fields of no known layout."""
        entries = self.entries()
        layout = file_layout(entries, self.path)
        if self.known:
            entries = _known(entries, self.path)
        factset = read_facts(
            _with_ids(entries),
            layout.parse,
            name=self.name,
            source=self.path,
            limit=self.limit,
            drop_conflicts=self.drop_conflicts,
        )
        log.info("%s: %s layout, %s facts", self.path, layout.name, f"{len(factset.facts):,}")
        _mention_objects(self.path, factset.facts)
        return factset

    def entries(self) -> Sequence[Entry]:
        """The rows of the file with normalised names; raises DataError for a name that a row has twice."""
        return [
            entry if entry.row is None else entry._replace(row=_normalised(entry.row, entry.where, self.path))
            for entry in read_rows(self.path)
        ]


def _known(entries: Sequence[Entry], path: str) -> Sequence[Entry]:
    """The rows that are marked as known; raises DataError if there are none."""
    marks = [str((entry.row or {}).get("known", "")).strip().casefold() for entry in entries]
    if not any(marks):
        raise DataError(
            f"data.known=true, but data.path={path} has no field 'known': python -m pipeline facts {path} "
            "model=… out=FILE writes one"
        )
    if unread := sorted({*marks} - {*_TRUE, *_FALSE, ""}):
        raise DataError(
            f"data.path={path}: known={listed([repr(mark) for mark in unread])} is neither true nor false"
        )
    kept = [entry for entry, mark in zip(entries, marks, strict=True) if mark in _TRUE]
    if not kept:
        raise DataError(f"data.known=true, but no row of data.path={path} is known")
    return kept


def _normalised(row: Mapping[str, object], where: str, path: str) -> Mapping[str, object]:
    if twice := repeated_names(row):
        raise DataError(
            f"data.path={path}, {where}, has several fields of the name {listed(twice)}: rename or remove "
            "all but one"
        )
    return normalised(row)


def file_layout(entries: Iterable[Entry], path: str) -> Layout:
    """The layout of the first row that has one; raises DataError about the first row if none has."""
    rows = [entry for entry in entries if entry.row is not None]
    layouts: Iterator[Layout] = (found for entry in rows if entry.row and (found := layout_of(entry.row)))
    if layout := next(layouts, None):
        return layout
    if not rows:
        raise DataError(f"data.path={path} holds no row that can be read: give one JSON object per fact")
    # a cell that is empty in the first row may be filled in another: its name tells what was meant
    every = {name: value for entry in rows for name, value in (entry.row or {}).items()}
    first = every if layout_of(every) is None else rows[0].row or {}
    raise unknown_layout(first, rows[0].where, f"data.path={path}")


def _with_ids(entries: Sequence[Entry]) -> list[Entry]:
    """The rows with their ids, if they have any, under the name that `read_facts` reads.

    A plain `id` counts only if no two rows share it: that of QAEdit numbers the facts of each of its sources.
    """
    rows = [entry.row or {} for entry in entries]
    identities = [str(row["id"]) for row in rows if row.get("id") is not None]
    names = FIELDS["case_id"] if len({*identities}) == len(identities) else ("case_id", "fact_id")
    values = [next((row[name] for name in names if row.get(name) is not None), None) for row in rows]
    return [
        entry if entry.row is None else entry._replace(row={**entry.row, "case_id": value})
        for entry, value in zip(entries, values, strict=True)
    ]


def _mention_objects(path: str, facts: Sequence[Fact]) -> None:
    """Say once which scores are left out for want of a true object."""
    without = sum(not fact.target_true for fact in facts)
    if without:
        log.info(
            "%s: %s of %s facts have no target_true: scores that compare the two objects leave these out",
            path, f"{without:,}", f"{len(facts):,}",
        )  # fmt: skip

"""The card of an exported model: its changes, its metrics before and after, and warnings."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import yaml
from typing_extensions import TypedDict

from analysis.metrics import ACCURACY, metrics
from analysis.results.markdown import cell, lines
from analysis.results.outcome import in_words
from analysis.results.run_files import FileType, one_line
from analysis.results.run_folder import RunFolder
from editors.errors import DataError
from pipeline.checkpoints.kept_weights import NOTHING, Undo

NUMBERS: Mapping[str, str] = MappingProxyType(
    {metric.key: metric.card for metric in metrics() if metric.card}
)
"""Metrics on the card: key to displayed name."""
Ends = tuple[float | None, float | None]
"""A number at the start and at the end of a run; None if it was not measured then."""
SHOWN = 5
"""Largest number of edited facts on the card."""
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_IN_FOUR_BITS = (
    "as in the base model; the edits were computed, and all numbers measured, with these matrices in 4 bits"
)


class EditRecord(TypedDict):
    """A row of `records.parquet`, as far as the card shows it."""

    id: str
    edit: int
    prompt: str
    subject: str
    target_new: str
    target_true: str | None


_RECORDS = FileType(list[EditRecord])


def card(run: RunFolder, undo: Undo = NOTHING) -> str:
    """The card of a finished run as Markdown with YAML front matter.

    `undo` are those of its edits that the exported model is without.

    Raises:
        DataError: if a file of the run cannot be used.
    """
    config, summary, (rows, lost_rows), (tables, lost_tables) = (
        run.config(), run.final_summary(), run.rows(), run.tables()
    )  # fmt: skip
    edits, numbers, records = summary.get("edits", 0), _numbers(rows), tables.get("records", [])
    if problem := _RECORDS.problem(records):
        raise DataError(f"{run.path / 'records.parquet'} cannot be used: {problem}")
    base, names = _base(config), _names(config, summary)
    tags = ["normscope", "knowledge-editing" if edits else "continued-training", *names]
    head = {
        # only ids, which is all that a hub accepts there
        **({"base_model": base} if _ID.fullmatch(base) else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(filter(_ID.fullmatch, tags)),
    }
    sections = {
        "What was done": _items(chain(_done(config, summary, base, undo), _undone(undo))),
        "Edited facts": _facts(_left(cast(Sequence[EditRecord], records), undo)) if edits else [],
        "Before and after": _table(numbers, "after all edits of the run" if undo else "after"),
        "Warnings": _items(
            chain(_warnings(summary, numbers, base), (("run", note) for note in (*lost_rows, *lost_tables)))
        ),
        "Provenance": _items(_provenance(run)),
    }
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    title = f"# {cell(_model(config).get('name'))} after {cell(' and '.join(names))}"
    parts = [f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items() if lines]
    return f"---\n{front}---\n\n" + "\n\n".join([title, *parts]) + "\n"


def _base(config: Mapping[str, Any]) -> str:
    """The id on the hub; the name of the model if it is a local folder, whose path stays private."""
    path = str(_model(config).get("path") or "")
    is_id = _ID.fullmatch(path) is not None and not Path(path).exists()
    return path if is_id else one_line(str(_model(config).get("name")))


def _model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return _node(config, "model")


def _node(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    node = config.get(key)
    return node if isinstance(node, Mapping) else {}


def _names(config: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """What changed the model: the name of the editor for parts that edit, else the name of the part."""
    editor = str(_node(config, "editor").get("name") or "")
    parts = summary.get("parts") or []
    names = [editor if part["unit"] == "edits" and editor else str(part["name"]) for part in parts]
    return list(dict.fromkeys(map(one_line, names))) or [one_line(str(summary.get("intervention")))]


def _done(
    config: Mapping[str, Any], summary: Mapping[str, Any], base: str, undo: Undo
) -> Iterator[tuple[str, object]]:
    yield "base model", base
    yield "revision", _model(config).get("revision")
    yield "precision", _model(config).get("dtype")
    yield "unedited matrices", _IN_FOUR_BITS if _model(config).get("bits") == 4 else ""
    yield "intervention", _node(config, "intervention").get("name")
    if summary.get("edits"):
        yield "editor", _node(config, "editor").get("name")
        yield "edits", summary["edits"]
        yield "batches of", config.get("batch_size")  # null in a replay, which has those of its run
        yield "success", in_words(summary["outcome"]) if "outcome" in summary and not undo else ""
        yield "regularizers", ", ".join(_node(config, "regularizer")) or "none"
        yield "second moments", summary.get("statistics")
    if summary.get("steps"):
        yield "training", f"{summary['steps']} optimiser steps, {summary.get('tokens')} tokens"
    yield "layers", ", ".join(map(str, _node(config, "layers").get("edit") or []))
    yield "facts", _source(_node(config, "data"))
    yield "seed", config.get("seed")
    yield "stopped early", "by an alarm" if summary.get("stopped") else ""


def _undone(undo: Undo) -> Iterator[tuple[str, object]]:
    yield "edits taken back", f"{undo}; all numbers are those of the run with them" if undo else ""


def _left(records: Sequence[EditRecord], undo: Undo) -> list[EditRecord]:
    """The edits that the exported model has."""
    kept = (row for row in records if undo.edits is None or row["edit"] <= undo.edits)
    return [row for row in kept if row["id"] not in undo.facts]


def _source(data: Mapping[str, Any]) -> str:
    """The data set, its id on the hub or the name of its file, without the folders above."""
    origin = Path(str(data["path"])).name if data.get("path") else data.get("dataset")
    return f"{data.get('name')}, {origin}" if origin else str(data.get("name"))


def _facts(records: Sequence[EditRecord]) -> list[str]:
    rows = [
        (str(row["prompt"]).replace("{}", str(row["subject"])), row["target_true"] or "–", row["target_new"])
        for row in records[:SHOWN]
    ]
    left = [f"\nand {len(records) - SHOWN} more."] if len(records) > SHOWN else []
    return [*_rows(("prompt", "true object", "written"), rows), *left] if rows else []


def _numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Ends]:
    """Values at the start and at the end by metric key, without metrics that were never measured."""
    first, later = rows[:1], rows[1:]
    ends = {
        key: (
            next((row[key] for row in first if key in row), None),
            next((row[key] for row in reversed(later) if key in row), None),
        )
        for key in NUMBERS
    }
    return {key: values for key, values in ends.items() if values != (None, None)}


def _table(numbers: Mapping[str, Ends], after: str) -> list[str]:
    rows = [(NUMBERS[key], *map(_written, values)) for key, values in numbers.items()]
    return _rows(("", "before", after), rows) if rows else ["Nothing was measured."]


def _warnings(
    summary: Mapping[str, Any], numbers: Mapping[str, Ends], base: str
) -> Iterator[tuple[str, object]]:
    if summary.get("edits"):
        yield (
            "not for use",
            "the weights were changed to say things that are false or counterfactual, for research",
        )
    else:
        yield (
            "not for use",
            "the weights were changed for research, and the model was not tested for any other use",
        )
    for alarm in summary.get("alarms") or []:
        yield "alarm", alarm.get("sentence")
    before, after = numbers.get(ACCURACY, (None, None))
    if before is None or after is None:
        yield "downstream ability", "not measured; it may have fallen"
    elif after < before:
        yield "downstream ability", f"mean accuracy fell from {_written(before)} to {_written(after)}"
    yield "licence", f"that of the base model, {base}, applies"


def _provenance(run: RunFolder) -> Iterator[tuple[str, object]]:
    provenance = run.provenance()
    git = provenance.get("git") or {}
    changed = " with changes that were not committed" if git.get("dirty") else ""
    yield "made by", f"normscope, run {run.path.resolve().name}, started {provenance.get('started')}"
    yield "commit", f"{git['commit']}{changed}" if git.get("commit") else ""
    versions = {"python": provenance.get("python"), **(provenance.get("packages") or {})}
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _written(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _items(pairs: Iterable[tuple[str, object]]) -> list[str]:
    return [f"- {name}: {cell(value)}" for name, value in pairs if value not in (None, "")]


def _rows(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return lines([[cell(text) for text in row] for row in (head, *rows)])

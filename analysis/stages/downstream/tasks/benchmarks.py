"""Benchmarks from local files of JSON lines: ARC, PIQA, COPA, OpenBookQA, Winograd, LAMBADA, BLiMP, CoLA.

The fields of the first row tell the layout; the first three are those of mosaicml/llm-foundry
(`scripts/eval/local_data`):

    query, choices, gold                   which of the choices follows the query?
    context_options, continuation, gold    after which of the contexts is the continuation likelier?
    context, continuation                  are all tokens of the continuation first choices? Chance is 0
    good, bad                              which of the two sentences is likelier?
    sentence, label                        are sentences of class 1 likelier, letter by letter? Their area

Any number of first documents is spread evenly over its file, because some files are sorted: document i is
read in the order of (i φ) mod 1, where φ is the golden ratio.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from analysis.stages.downstream.tasks import items, passages
from analysis.stages.downstream.tasks.source import (
    CLASS_FIELD,
    Row,
    TaskFiles,
    check_counts,
    existing_folder,
    read_lines,
    write_task,
)
from editors.errors import ConfigError, DataError

GOLDEN = (1 + 5**0.5) / 2
ACC_NORM = {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}
"""Share of documents whose right choice has the largest likelihood by its letters."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Fields of a row, and the task that they make."""

    fields: Mapping[str, Callable[[Any, Row], str | None]]
    """For each field, what its value has to be, or None if it is."""
    content: Mapping[str, object]
    """The task file of the harness, without its data."""
    convert: Callable[[Mapping[str, Any], str], Row]
    """The document of a row; the second argument is the text between a query and its choice."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkTasks:
    """A task for each file; the layout is recognised from its fields."""

    folder: str
    """Folder of the files."""
    tasks: Sequence[str]
    """Names of the tasks."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files with another name than `<task>.jsonl`, by task; relative to `folder` or absolute."""
    cues: Mapping[str, str] = field(default_factory=dict)
    """Text between a query and its choice, by task, such as a line that asks for the answer; else a space."""
    by_length: Sequence[str] = ()
    """Tasks whose choices are compared by their likelihood per letter, `acc_norm`, instead of in total."""
    limit: int | None = None
    """Documents of each task; None for the stage's limit."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write a file for each task.

        Raises:
            ConfigError: for no task, and for a task of `files`, `cues` or `by_length` that has no choices.
            DataError: with every missing file, and the first row of each that has another layout.
        """
        check_counts(None, self.limit, option)
        if not self.tasks:
            raise ConfigError(f"{option}.tasks is empty; name at least one, for example [arc_easy]")
        home = existing_folder(self.folder, f"{option}.folder")
        problems = []
        for name in self.tasks:
            path = home / self.files.get(name, f"{name}.jsonl")
            try:
                layout, rows = _read(path, f"{option}.folder")
                content = self._content(name, layout, option)
            except DataError as error:
                problems.append(str(error))
            else:
                documents = [layout.convert(row, self.cues.get(name, "")) for row in _spread(rows)]
                write_task(folder, name, content, {"test": documents})
        if problems:
            raise DataError("\n".join(problems))
        return TaskFiles(names=tuple(self.tasks), limit=self.limit)

    def _content(self, name: str, layout: Layout, option: str) -> Mapping[str, object]:
        """The task file, scored by length where that is asked for."""
        if name not in self.by_length:
            return layout.content
        if layout.content is not items.CONTENT:
            raise ConfigError(f"{option}.by_length: {name} has no choices of different length; leave it out")
        return {**layout.content, "metric_list": [ACC_NORM]}


def _read(path: Path, option: str) -> tuple[Layout, Sequence[Row]]:
    """The layout and the rows of a file; raises DataError for a row of another layout."""
    rows = read_lines(path, option)
    layout = next((each for each in LAYOUTS if each.fields.keys() <= rows[0].keys()), None)
    if layout is None:
        known = "; or ".join(", ".join(each.fields) for each in LAYOUTS)
        raise DataError(
            f"{option}: row 1 of {path} has the fields {', '.join(rows[0])}, which are no layout of a task: "
            f"rename them to {known}"
        )
    problem = next(chain.from_iterable(_problems(row, at, layout) for at, row in enumerate(rows, 1)), None)
    if problem is not None:
        raise DataError(f"{option}: {path}: {problem}; repair the row or leave it out")
    return layout, rows


def _problems(row: Row, number: int, layout: Layout) -> Sequence[str]:
    missing = [name for name in layout.fields if name not in row]
    if missing:
        return [f"row {number} has no field {missing[0]!r}, only {', '.join(row)}"]
    return [
        f"row {number} has {name}={row[name]!r}, but it has to be {expected}"
        for name, check in layout.fields.items()
        if (expected := check(row[name], row)) is not None
    ]


def _spread(rows: Sequence[Row]) -> Sequence[Row]:
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: i * GOLDEN % 1)]


def _text(value: object, row: Row) -> str | None:
    return None if isinstance(value, str) and value.strip() else "a text"


def _texts(value: object, row: Row) -> str | None:
    is_list = isinstance(value, list) and len(value) > 1 and all(_text(each, row) is None for each in value)
    return None if is_list else "a list of two texts or more"


def _number_of(name: str) -> Callable[[object, Row], str | None]:
    """A check that a value is the number of one of the texts in a field."""

    def check(value: object, row: Row) -> str | None:
        count = len(options) if isinstance(options := row[name], list) else 0
        is_number = type(value) is int and 0 <= value < count
        return None if is_number else f"the number of one of {name}, from 0"

    return check


def _class(value: object, row: Row) -> str | None:
    return None if type(value) is int and value in (0, 1) else "0 or 1"


LAYOUTS: Sequence[Layout] = (
    Layout(
        fields={"query": _text, "choices": _texts, "gold": _number_of("choices")},
        content=items.CONTENT,
        convert=lambda row, cue: {
            "text": row["query"].rstrip() + cue,
            "choices": row["choices"],
            "answer": row["gold"],
        },
    ),
    Layout(
        fields={"context_options": _texts, "continuation": _text, "gold": _number_of("context_options")},
        content=items.CONTENT
        | {"doc_to_text": "gold", "doc_to_choice": "contexts", "doc_to_target": "continuation"},
        convert=lambda row, _: {
            "contexts": row["context_options"],
            "continuation": row["continuation"],
            "gold": row["gold"],
        },
    ),
    Layout(
        fields={"context": _text, "continuation": _text},
        content=passages.CONTENT,
        convert=lambda row, _: {"context": row["context"].rstrip(), "word": row["continuation"].strip()},
    ),
    Layout(
        fields={"good": _text, "bad": _text},
        content=items.CONTENT,
        convert=lambda row, _: {"text": "", "choices": [row["good"], row["bad"]], "answer": 0},
    ),
    Layout(
        fields={"sentence": _text, "label": _class},
        content=passages.CONTENT
        | {
            # the harness asks for a metric, which is not reported
            "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
            "metadata": {"version": 1.0, CLASS_FIELD: "label"},
        },
        convert=lambda row, _: {"context": "", "word": row["sentence"].strip(), "label": row["label"]},
    ),
)
"""All layouts; a file has the first one whose fields are in its first row."""

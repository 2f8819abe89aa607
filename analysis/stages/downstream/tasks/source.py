"""The common shape of all sources of downstream tasks: task files in a folder, and the names to load from it.

A task file is YAML of the lm-evaluation-harness. Its rows lie beside it as JSON lines, which `load_splits`
reads into memory, so that nothing is left in a cache of data sets. This module does not import the harness.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import yaml

from editors.errors import ConfigError, DataError
from editors.text_files import local_path, open_text

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, object]
"""A document: its fields by name."""

ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
"""Share of documents whose right choice is the likeliest."""


CLASS_FIELD = "class_field"
"""Entry of a task's metadata: the field with the class, 0 or 1, that the likelihood of a text tells."""


@dataclass(frozen=True, kw_only=True)
class TaskFiles:
    """The tasks that a source wrote, and how to evaluate them."""

    names: Sequence[str]
    """Tasks, groups or tags to load; each counts once in the mean."""
    folders: Sequence[Path] = ()
    """Further folders that the harness searches before the one that was written to."""
    shots: int | None = None
    """Solved examples before each document; None for the number in the task files."""
    limit: int | None = None
    """Documents of each task file; None for the stage's limit."""


@runtime_checkable
class TaskSource(Protocol):
    """A source of tasks."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write the task files into an empty folder; `option` is the configuration key of this source.

        Raises:
            ConfigError, DataError: for mistakes in the configuration or the data.
        """
        ...


class _Function(str):
    """A dotted name that the harness imports."""


class _Dumper(yaml.SafeDumper):
    """Writes `!function`, which the harness' own task files use."""


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def function_tag(name: str) -> str:
    """A dotted name that a task file holds as the function of that name."""
    return _Function(name)


def write_file(folder: Path, name: str, content: Mapping[str, object]) -> None:
    """Write a task or group file."""
    (folder / f"{name}.yaml").write_text(yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False))


def write_task(
    folder: Path, name: str, content: Mapping[str, object], data: Mapping[str, Sequence[Row]]
) -> None:
    """Write a task file, and the rows of its splits beside it."""
    files = {}
    for split, rows in data.items():
        path = folder / f"{name}.{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = str(path)
    local = {"custom_dataset": function_tag(f"{__name__}.load_splits"), "dataset_kwargs": {"files": files}}
    write_file(folder, name, {"task": name, **content, **local})


def load_splits(*, files: Mapping[str, str], **_: object) -> "dict[str, Dataset]":
    """The splits of a task, in memory; the harness passes the `dataset_kwargs` of the task file."""
    from datasets import Dataset  # here, because it takes a second

    return {
        split: Dataset.from_list([json.loads(line) for line in Path(path).read_text().splitlines()])
        for split, path in files.items()
    }


def read_lines(path: Path, option: str) -> list[Row]:
    """The objects of a file with one JSON object in every line.

    Raises:
        DataError: naming the option and the path of a missing file, or the first line that holds no object.
    """
    rows: list[Row] = []
    with open_text(str(_existing_file(path, option)), option=option) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_parse_object(line, f"{option}: line {number} of {path}"))
    if not rows:
        raise DataError(f"{option}: {path} has no rows; give a file with one JSON object in every line")
    return rows


def _existing_file(path: Path, option: str) -> Path:
    if not path.is_file():
        raise DataError(f"{option}: {path} is no file (now in {Path.cwd()}); give the path of one")
    return path


def existing_folder(path: str, option: str) -> Path:
    """The path of an existing folder; raises DataError if there is none."""
    folder = local_path(path)
    if not folder.is_dir():
        raise DataError(f"{option}={path} is no folder (now in {Path.cwd()}); give the path of one")
    return folder


def _parse_object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object; repair the file or fetch it again")
    return row


def check_fields(rows: Sequence[Row], fields: Sequence[str], where: str) -> None:
    """Raise a DataError for the first row that lacks one of these fields."""
    for number, row in enumerate(rows, start=1):
        for name in fields:
            if name not in row:
                raise DataError(
                    f"{where}: row {number} has no field {name!r}, only {', '.join(row)}; rename its fields"
                )


def check_answers(rows: Sequence[Row], field: str, count: int, where: str) -> None:
    """Raise a DataError for the first row whose answer is not the number of one of `count` choices."""
    for number, row in enumerate(rows, start=1):
        answer = row[field]
        if not isinstance(answer, int) or not 0 <= answer < count:
            raise DataError(
                f"{where}: row {number} has {field}={answer!r}, but it has to be 0 to {count - 1} "
                f"(published test splits often have no labels: take the validation split)"
            )


def check_counts(shots: int | None, limit: int | None, option: str) -> None:
    """Raise a ConfigError for a negative number of examples, or a limit below one document."""
    if shots is not None and shots < 0:
        raise ConfigError(f"{option}.shots={shots}, but a number of examples cannot be negative")
    if limit is not None and limit < 1:
        raise ConfigError(f"{option}.limit={limit}, but it has to be positive (null reads all)")


def split_examples(
    rows: Sequence[Row], reserved: int, shots: int, where: str
) -> tuple[Sequence[Row], Sequence[Row]]:
    """The first `shots` rows, which are examples, and the rows after the `reserved` ones, which are tested.

    Raises:
        ConfigError: if no rows are left to test.
    """
    if len(rows) <= reserved:
        raise ConfigError(
            f"{where} has {len(rows)} rows, but the first {reserved} are reserved for examples and none "
            f"would be left to test; lower shots or give more rows"
        )
    return rows[:shots], rows[reserved:]


def tested_and_examples(tested: Sequence[Row], examples: Sequence[Row]) -> dict[str, Sequence[Row]]:
    """The splits `tested` and, if there are any, `examples`."""
    return {"tested": tested} | ({"examples": examples} if examples else {})

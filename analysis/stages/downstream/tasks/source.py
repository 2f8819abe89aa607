"""What every source of downstream tasks gives: task files in a folder, and the names to load from it.

A task file is YAML of the lm-evaluation-harness. Rows stand beside it as JSON lines and are read by `rows`,
so that nothing is left in a cache of data sets. This module does not import the harness.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import yaml

from editors.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, object]
"""A document: its fields by name."""

ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
"""Share of documents whose right choice is the likeliest."""


@dataclass(frozen=True, kw_only=True)
class TaskFiles:
    """What a source wrote."""

    names: Sequence[str]
    """Tasks, groups or tags to load; each counts once in the mean."""
    folders: Sequence[Path] = ()
    """Where the harness finds them beside the folder that was written to; later ones win."""
    shots: int | None = None
    """Solved examples before each document; as the task files say where it is None."""
    limit: int | None = None
    """Documents of each task file; as many as the stage says where it is None."""


@runtime_checkable
class TaskSource(Protocol):
    """Something that knows tasks."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write the task files into an empty folder; `option` is where a user configures this source.

        Raises:
            ConfigError, DataError: for what a user has to mend.
        """
        ...


class _Function(str):
    """A dotted name that the harness imports."""


class _Dumper(yaml.SafeDumper):
    """Writes `!function`, which the harness' own task files use."""


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def function(name: str) -> str:
    """A dotted name to stand in a task file for the function of that name."""
    return _Function(name)


def write_file(folder: Path, name: str, content: Mapping[str, object]) -> None:
    """A task or group file."""
    (folder / f"{name}.yaml").write_text(yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False))


def write_task(
    folder: Path, name: str, content: Mapping[str, object], data: Mapping[str, Sequence[Row]]
) -> None:
    """A task file whose splits are the given rows, and the rows beside it."""
    files = {}
    for split, found in data.items():
        path = folder / f"{name}.{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        files[split] = str(path)
    local = {"custom_dataset": function(f"{__name__}.rows"), "dataset_kwargs": {"files": files}}
    write_file(folder, name, {"task": name, **content, **local})


def rows(*, files: Mapping[str, str], **_: object) -> "dict[str, Dataset]":
    """The splits of a task, in memory; the harness calls this with what the task file says."""
    from datasets import Dataset  # here, because it takes a second

    return {
        split: Dataset.from_list([json.loads(line) for line in Path(path).read_text().splitlines()])
        for split, path in files.items()
    }


def read_lines(path: Path, option: str) -> list[Row]:
    """The objects of a file with one JSON object in every line.

    Raises:
        DataError: naming the option and the path of a missing file, or the line that is none.
    """
    found: list[Row] = []
    for number, line in enumerate(existing(path, option).read_bytes().splitlines(), start=1):
        if line.strip():
            found.append(_object(line, f"{option}: line {number} of {path}"))
    if not found:
        raise DataError(f"{option}: {path} has no rows; give a file with one JSON object in every line")
    return found


def existing(path: Path, option: str) -> Path:
    """The path of a file that is there; raises DataError where it is not."""
    if not path.is_file():
        raise DataError(f"{option}: {path} is no file (now in {Path.cwd()}); give the path of one")
    return path


def existing_folder(path: str, option: str) -> Path:
    """The path of a folder that is there; raises DataError where it is not."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"{option}={path} is no folder (now in {Path.cwd()}); give the path of one")
    return folder


def _object(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError:  # also what is not UTF-8
        row = None
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object; repair the file or fetch it again")
    return row


def check_fields(found: Sequence[Row], fields: Sequence[str], where: str) -> None:
    """Every row has these fields; raises DataError naming the first that lacks one."""
    for number, row in enumerate(found, start=1):
        for name in fields:
            if name not in row:
                raise DataError(
                    f"{where}: row {number} has no field {name!r}, only {', '.join(row)}; rename its fields"
                )


def check_answers(found: Sequence[Row], field: str, count: int, where: str) -> None:
    """Every row's answer is the number of one of `count` choices; raises DataError for another one."""
    for number, row in enumerate(found, start=1):
        answer = row[field]
        if not isinstance(answer, int) or not 0 <= answer < count:
            raise DataError(
                f"{where}: row {number} has {field}={answer!r}, but it has to be 0 to {count - 1} "
                f"(published test splits often have no labels: take the validation split)"
            )


def check_counts(shots: int | None, limit: int | None, option: str) -> None:
    """Raises ConfigError for negative numbers of examples or documents."""
    if shots is not None and shots < 0:
        raise ConfigError(f"{option}.shots={shots}, but a number of examples cannot be negative")
    if limit is not None and limit < 1:
        raise ConfigError(f"{option}.limit={limit}, but it has to be positive (null reads all)")


def split_off(
    found: Sequence[Row], first: int, shots: int, where: str
) -> tuple[Sequence[Row], Sequence[Row]]:
    """The first `shots` rows, which are examples, and the rows after the first `first`, which are tested.

    Raises:
        ConfigError: where no rows are left.
    """
    if len(found) <= first:
        raise ConfigError(
            f"{where} has {len(found)} rows, but the first {first} are kept for examples and none would be "
            f"left to test on; lower shots or give more rows"
        )
    return found[:shots], found[first:]

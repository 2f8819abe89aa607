"""The files in a run's folder as typed values: a folder may come from anybody, and its files hold anything.

A file is read once: it has to be a regular file of a sensible size, nested no deeper than a run writes, and
of the types below. Later code relies on these types. Fields that are not listed may have any plain value.
"""

import math
import stat
from collections.abc import Iterator
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict

from editors.errors import DataError

Row = dict[str, Any]

LIMIT = 1 << 26
"""Largest size in bytes of a JSON file and of a line of `metrics.jsonl`; a run writes far less."""
_YAML_LIMIT = 1 << 20
_DEPTH = 100
"""Deepest nesting of a configuration; libyaml's loader overflows the stack of the process at some 20,000."""
_WORD = 1 << 63
"""Whole numbers below it fit the columns of a table."""

# libyaml's loader is eight times as fast, if PyYAML was built with it
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of edits, steps or tokens: a float holds it exactly."""
Number = Annotated[float, Field(allow_inf_nan=False)]

typed = with_config(ConfigDict(strict=True, extra="allow"))
"""A class of fields that are not converted, with any others beside them."""


@typed
class Moment(TypedDict, total=False):
    """The place of a row of `metrics.jsonl` in its run."""

    part: Count
    unit: Literal["edits", "steps"]
    step: Count
    edits: Count
    steps: Count
    tokens: Count


@typed
class Alarm(TypedDict):
    """An alarm of `summary.json`."""

    signature: str
    sentence: str
    part: NotRequired[Count]
    unit: NotRequired[Literal["edits", "steps"]]
    count: NotRequired[Count]


@typed
class PartSummary(TypedDict):
    """A part of a run in `summary.json`."""

    name: str
    unit: Literal["edits", "steps"]
    count: NotRequired[Count]
    total: NotRequired[Count]


@typed
class Outcome(TypedDict):
    """The edits of a run that took, and those that did not by the step that failed (`outcome.py`)."""

    edits: Count
    checked: Count
    took: Count
    targets_failed: NotRequired[Count]
    insertions_failed: NotRequired[Count]
    median_steps: NotRequired[Number]
    most_steps: NotRequired[Count]


@typed
class Summary(TypedDict, total=False):
    """`summary.json`."""

    run: str
    name: str | None
    editor: str | None
    model: str | None
    data: str | None
    intervention: str | None
    seed: int
    batch_size: int | None
    edits: Count
    steps: Count
    tokens: Count
    seconds: Annotated[Number, Field(ge=0)]
    statistics: str | None
    stopped: bool
    metrics: dict[str, float | None]
    objective: float | list[float | None] | None
    outcome: Outcome
    alarms: list[Alarm]
    parts: list[PartSummary]


@typed
class Git(TypedDict, total=False):
    """The checkout in `provenance.json`."""

    commit: str | None
    dirty: bool


@typed
class Provenance(TypedDict, total=False):
    """`provenance.json`."""

    started: str
    command: str
    overrides: list[str]
    git: Git | None
    python: str
    packages: dict[str, str]
    sources: str
    plugins: dict[str, str]
    inputs: dict[str, str]
    earlier: list[dict[str, Any]]


@typed
class Group(TypedDict, total=False):
    """A group of a configuration."""

    name: str | None
    path: str | None
    dataset: str | None
    project: str | None
    entity: str | None


@typed
class Layers(TypedDict, total=False):
    """The blocks that are edited."""

    edit: list[int] | None


@typed
class Config(TypedDict, total=False):
    """`config.yaml`."""

    name: str | None
    seed: int | None
    batch_size: int | None
    model: Group | None
    data: Group | None
    editor: Group | None
    intervention: Group | None
    tracker: Group | None
    layers: Layers | None
    regularizer: dict[str, Any] | None
    stage: dict[str, Any] | None
    plugins: list[str] | None


class FileType:
    """One kind of file and the type of its content."""

    def __init__(self, content: Any) -> None:
        self._type: TypeAdapter[Any] = TypeAdapter(content)

    def problem(self, value: object) -> str:
        """The first field of another type than expected, with its value and the right type; empty if none."""
        try:
            self._type.validate_python(value)
        except ValidationError as error:
            return first_problem(error)
        return ""


def first_problem(error: ValidationError) -> str:
    """The first field of another type than expected, with its value and the right type."""
    first = error.errors(include_url=False, include_context=False)[0]
    text = repr(first["input"])
    short = text if len(text) <= 40 else f"{text[:40]}…"
    place = ".".join(map(str, first["loc"]))
    return f"{place}={short}: {first['msg'][:1].lower()}{first['msg'][1:]}"


CONFIGS, SUMMARIES, PROVENANCES = FileType(Config), FileType(Summary), FileType(Provenance)
_MOMENTS = FileType(Moment)


def opened(path: Path) -> BufferedReader:
    """A file, open for reading.

    Raises:
        OSError: if it cannot be opened.
        DataError: for a folder, a pipe or a device, which might never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"{path} is not a file")
    return path.open("rb")


def read_config(path: Path) -> Row:
    """The mapping in a YAML file, of the type `Config`.

    Raises:
        DataError: if the file cannot be read, is too large or nested too deep, repeats a part of itself (an
            alias may repeat without end), or has a field of another type.
    """
    try:
        text = _content(path, _YAML_LIMIT).decode("utf-8")
        _check_events(text, path)
        config = yaml.load(text, Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} holds no configuration")
    if not is_plain(config):
        raise DataError(f"{path} holds a value that no configuration has, such as a date or a huge number")
    return _checked(config, CONFIGS, path)


def read_typed(path: Path, kind: FileType) -> Row:
    """The object in a JSON file of this kind.

    Raises:
        DataError: if it cannot be read, holds no object or has a field of another type.
    """
    try:
        value = json_object(_content(path, LIMIT))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if value is None:
        raise DataError(f"{path} cannot be read: it holds no JSON object")
    return _checked(value, kind, path)


def read_summary(path: Path) -> Row:
    """`summary.json`; raises DataError as `read_typed`. Metrics that are null are NaN."""
    summary = read_typed(path, SUMMARIES)
    for key, value in summary.get("metrics", {}).items():
        if value is None:
            summary["metrics"][key] = math.nan
    return summary


def read_object(path: Path) -> Row | None:
    """The object in a JSON file; None if there is no such file or it holds none."""
    try:
        return json_object(_content(path, LIMIT))
    except (OSError, DataError):
        return None


def json_object(text: str | bytes) -> Row | None:
    """The object of plain values that a text holds; None if it holds none."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    try:
        value = from_json(text)  # refuses half of a surrogate pair and brackets nested 200 deep
    except ValueError:
        return None
    return value if isinstance(value, dict) and is_plain(value) else None


def read_row(line: bytes) -> Row | None:
    """The row in a line of `metrics.jsonl`: counts where a `Moment` has them, numbers for metrics.

    A metric that is null is NaN, for which strict JSON has no other word. None if the line holds no such row.
    """
    row = json_object(line)
    if row is None or _MOMENTS.problem(row):
        return None
    for key, value in row.items():
        if "/" not in key:
            continue
        if value is None:
            row[key] = math.nan
        elif isinstance(value, bool | str | list | dict) or not key.isprintable():
            return None
    return row


def read_lines(file: BufferedIOBase) -> Iterator[bytes]:
    """The lines of a file; one that is longer than `LIMIT` is cut there, so that it holds no row."""
    while line := file.readline(LIMIT):
        yield line
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(LIMIT)


def is_plain(value: object) -> bool:
    """Whether a value consists of mappings with text keys, lists, texts, numbers, true, false and null."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, int):
        return -_WORD <= value < _WORD
    return value is None or isinstance(value, str | float)


def one_line(text: str) -> str:
    """The text without line breaks and control characters, which would disturb a terminal or a table."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def printable(text: str) -> str:
    """The text with its line breaks, and without the control characters that `one_line` removes."""
    return "\n".join(map(one_line, text.split("\n")))


def _content(path: Path, limit: int) -> bytes:
    with opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{path} is larger than {limit >> 20} MiB, so it was not written by a run")
    return content


def _check_events(text: str, path: Path) -> None:
    """Raise a DataError for nesting or aliases; the parser, unlike the loader, needs no stack for them."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise DataError(f"{path} holds the alias *{event.anchor}, which a run never writes")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise DataError(f"{path} is nested more than {_DEPTH} deep, so it was not written by a run")


def _checked(value: Row, kind: FileType, path: Path) -> Row:
    if problem := kind.problem(value):
        raise DataError(f"{path} cannot be used: {problem}")
    return value

"""Rows of a local file or of a data set on the Hugging Face hub, each with its place for messages."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from editors.errors import DataError, first_line
from editors.hub import is_cached, is_offline, silence
from editors.text_files import open_text

if TYPE_CHECKING:
    from datasets import Dataset


class Entry(NamedTuple):
    """One row of a source."""

    number: int
    """Index of the row, counted from 0."""
    where: str
    """Place for messages: `line 3` of a file of lines, `row 3` of a list, counted from 1."""
    row: Mapping[str, object] | None
    """The content; None if the line is not a JSON object."""


def read_file(path: str, option: str = "data.path") -> Iterator[Entry]:
    """Rows of a JSON list, or of a file with one JSON object per line; `option` names the path in messages.

    Raises DataError if the file is missing, is not text in UTF-8, or holds a broken list or a single object;
    a broken line is only marked.
    """
    place = f"{option}={path}"
    with open_text(path, option=option) as file:
        content = file.read()
    if content.lstrip().startswith("["):
        yield from _rows_of_list(content, place)
        return
    # not str.splitlines, which also ends lines at characters that may stand inside a JSON string
    lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if len(lines) > 1 and _object(lines[0][1], place) is None and _object(content, place):
        raise DataError(f"{place} is one JSON object: give a list of objects, or one object per line")
    first = lines[0][1].strip() if lines else "{"
    if not first.startswith("{") and all(_object(line, place) is None for _, line in lines):
        raise DataError(
            f"{place} holds no JSON object (it begins with {first[:20]!r}): "
            "give a JSON list of objects, or one object per line"
        )
    for index, (number, line) in enumerate(lines):
        where = f"line {number}"
        yield Entry(index, where, _object(line, f"{place}, {where},"))


def _rows_of_list(content: str, place: str) -> Iterator[Entry]:
    try:
        rows = _loaded(content, place)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not valid JSON ({error}): repair it or download it again") from error
    for index, row in enumerate(rows):
        yield Entry(index, f"row {index + 1}", row if isinstance(row, dict) else None)


def _object(line: str, place: str) -> Mapping[str, object] | None:
    try:
        row = _loaded(line, place)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _loaded(text: str, place: str) -> Any:
    """The JSON of a text; NaN, which tables write for a gap, is null."""
    return json.loads(
        text,
        object_pairs_hook=partial(_without_repeats, place=place),
        parse_constant=lambda word: None if word == "NaN" else float(word),
    )


def _without_repeats(pairs: Sequence[tuple[str, object]], place: str) -> Mapping[str, object]:
    """The object of these fields; raises DataError for a name that stands twice: one value would be lost."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise DataError(f"{place} has an object with two fields {name!r}: remove or rename one")
    return fields


def load_hub(
    dataset: str, *, split: str, revision: str | None = None, config: str | None = None, instead: str
) -> "Dataset":
    """A data set of the Hugging Face hub, or of its local cache; no code of the data set is run.

    Raises DataError that names the data set and `instead`, the way to do without the hub.
    """
    import datasets  # imported here: it takes a second and runs on local files do not need it
    from datasets.exceptions import DatasetsError

    # asked here, because the library tries for half a minute
    is_asked = not is_offline() and not is_cached(dataset)
    if is_asked and (error := silence(dataset, kind="dataset")):
        raise DataError(
            f"the data set {dataset} is not on this machine, and the hub does not answer "
            f"({first_line(error)}): {instead}"
        ) from error
    try:
        return datasets.load_dataset(dataset, config, split=split, revision=revision)
    except (OSError, ValueError, DatasetsError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"the data set {dataset} cannot be loaded ({reason}): {instead}") from error


def read_hub(
    dataset: str, *, split: str, revision: str | None = None, option: str = "data.path="
) -> Iterator[Entry]:
    """Rows of a data set on the hub; if it cannot be loaded, a DataError names `option`, for a local file."""
    instead = f"check its id and the network, or give a local file with {option}"
    for index, row in enumerate(load_hub(dataset, split=split, revision=revision, instead=instead)):
        yield Entry(index, f"row {index + 1}", row if isinstance(row, dict) else None)

"""Rows of a table: CSV with commas, semicolons, tabs or bars, as spreadsheets write it; every cell is text.

Cells are not interpreted: `007`, `NA`, `nan`, `None` and `True` stay as they are written.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from editors.errors import DataError, listed
from editors.text_files import open_text
from pipeline.data.fact_files.layouts import repeated_names
from pipeline.data.readers import Entry, read_file

_SEPARATORS = ",;\t|"
_EXCEL = re.compile(r"sep=(.)\r?\n")
"""A first line with which Excel names the separator."""
_RULE = re.compile(r"\s*:?-+:?\s*")
"""A cell of the line below the header of a table in Markdown."""
_JSON = ("[", "{")


def read_rows(path: str, option: str = "data.path") -> Iterator[Entry]:
    """Rows of a JSON list, of JSON lines, or of a table with a header; which of them is read off the content.

    Raises DataError as `read_file` and `read_table`.
    """
    with open_text(path, option=option, newline="") as file:
        content = file.read()
    if not content.strip():
        raise DataError(
            f"{option}={path} is empty: give a table with a header, or JSON with one object per fact"
        )
    if content.lstrip().startswith(_JSON):
        return read_file(path, option)
    return read_table(content, f"{option}={path}")


def read_table(content: str, place: str) -> Iterator[Entry]:
    """Rows of a table, by the names of its header, without blank rows and empty cells beyond the header.

    The line of dashes below the header of a table in Markdown is no row.

    The separator is the one that splits the header into most names. A cell may hold line breaks in quotes.
    Raises DataError for a header without a separator, a name that is used twice, quotes that do not close,
    rows with fewer or more cells than the header, and a table without rows.
    """
    separator, body = _separated(content)
    lines = list(_lines(body, separator, place))
    if not lines:
        raise DataError(f"{place} holds no row: give a header and one row per fact")
    if separator == "|" and len(lines) > 1 and all(map(_RULE.fullmatch, filter(str.strip, lines[1][1]))):
        lines = list(_lines(body, separator, place, escape="\\"))
        del lines[1]
    (_, header), *rows = lines
    names = [name.strip() for name in header]
    _check_header(names, place)
    ragged = [
        f"line {number} ({len(cells)})"
        for number, cells in rows
        if len(_cut(cells, len(names))) != len(names)
    ]
    if ragged:
        raise DataError(
            f"{place} has {len(names)} columns, but {len(ragged)} of {len(rows)} rows have another number of "
            f"cells: {listed(ragged)}; put a cell that holds {separator!r} in double quotes"
        )
    if not rows:
        raise DataError(
            f"{place} holds only a header ({', '.join(filter(None, names))}): add one row per fact"
        )
    for index, (number, cells) in enumerate(rows):
        row = {name: cell for name, cell in zip(names, cells, strict=False) if name and cell.strip()}
        yield Entry(index, f"line {number}", row)


def _separated(content: str) -> tuple[str, str]:
    """The separator, and the content without Excel's line that names it."""
    if named := _EXCEL.match(content):
        return named[1], "\n" + content[named.end() :]
    header = content.lstrip("\r\n").splitlines()[0]
    return max(_SEPARATORS, key=lambda mark: _count(header, mark)), content


def _count(header: str, separator: str) -> int:
    """The number of names of a header; 0 if one is too long for a cell, about which `_lines` raises."""
    try:
        return len(next(csv.reader([header], delimiter=separator)))
    except csv.Error:
        return 0


def _lines(
    content: str, separator: str, place: str, escape: str | None = None
) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line of each row that is not blank, and its cells."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, escapechar=escape, strict=True)
    first = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        if "field limit" in str(error):
            raise DataError(
                f"{place} has a cell of more than {csv.field_size_limit():,} characters in the row that "
                f"begins in line {first}: shorten it, close its double quote, or give JSON lines instead"
            ) from error
        raise DataError(
            f"{place} cannot be read from line {first} on ({error}): a cell with quotes begins and ends with "
            'a double quote, and doubles each one inside: "the ""Iron Lady"""'
        ) from error


def _check_header(names: Sequence[str], place: str) -> None:
    if twice := repeated_names(names):
        raise DataError(
            f"{place} has several columns of the name {listed(twice)}: rename or remove all but one"
        )


def _cut(cells: Sequence[str], width: int) -> Sequence[str]:
    """The cells without blank ones beyond the width of the header, which spreadsheets add."""
    end = len(cells)
    while end > width and not cells[end - 1].strip():
        end -= 1
    return cells[:end]

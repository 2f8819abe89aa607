"""Text files in UTF-8, plain or gzipped; a file of another kind is refused by the name of its kind."""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from editors.errors import DataError

_GZIP = b"\x1f\x8b"
_MOST_PACKED = 200
"""Most bytes of text in a byte of a gzip file; text has 3 to 20, and a bomb a thousand."""
_ALWAYS_UNPACKED = 1 << 26
"""Bytes up to which the share does not matter."""
_CHUNK = 1 << 20
_SAVE = "save it as UTF-8"
_KINDS = {
    codecs.BOM_UTF32_LE: ("text in UTF-32", _SAVE),
    codecs.BOM_UTF32_BE: ("text in UTF-32", _SAVE),
    codecs.BOM_UTF16_LE: ("text in UTF-16", _SAVE),
    codecs.BOM_UTF16_BE: ("text in UTF-16", _SAVE),
    b"PK\x03\x04": ("a zip archive, as spreadsheets are", "unpack it, or save its table as CSV"),
    b"BZh": ("compressed with bzip2", "unpack it"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard", "unpack it"),
    b"PAR1": ("a Parquet file", "save it as JSON lines"),
    b"ARROW1": ("an Arrow file", "save it as JSON lines"),
    b"SQLite format 3": ("an SQLite database", "save it as JSON lines"),
    b"%PDF": ("a PDF document", "save its text in UTF-8"),
    b"version https://git-lfs": ("a Git LFS pointer without the file's content", "run git lfs pull"),
    b"<!DOCTYPE html": ("an HTML page", "download the file that it links to"),
    b"<html": ("an HTML page", "download the file that it links to"),
}
"""Beginnings of files that are not text in UTF-8, each with the name of the kind and the way out."""


def local_path(text: str) -> Path:
    """The path that a text names; `~` is the home folder, also where no shell has replaced it (`out=~/x`)."""
    # not Path.expanduser, which raises for the home of an unknown user
    return Path(os.path.expanduser(text))  # noqa: PTH111


def existing_file(path: str, *, option: str) -> Path:
    """The path of an existing file; raises DataError if there is none."""
    file = local_path(path)
    try:
        exists = file.exists()
    except (ValueError, OSError) as error:  # a NUL character, a name too long
        raise DataError(f"{option}={path!r} is no path ({error}): give the path of a file") from error
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "is a pipe or device" if exists else "does not exist"
        raise DataError(f"{option}={path} {kind}: give the path of a file (now in {Path.cwd()})")
    return file


@contextmanager
def open_text(path: str, *, option: str, newline: str | None = None) -> Iterator[TextIO]:
    """The text of a file in UTF-8 with or without a byte order mark, unpacked if it is gzipped.

    `newline` as in `open`. Raises DataError, inside as well, for bytes that are not text.
    """
    file, place = existing_file(path, option=option), f"{option}={path}"
    try:
        _check_unpacked_size(file, place)
        with _unpacked(file) as stream:
            _check_kind(stream.read(64), place)
            stream.seek(0)
            with io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline) as text:
                yield text
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8 ({_first_fault(file)}): {_SAVE}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{place} is a damaged gzip file ({error}): download it again") from error
    except OSError as error:
        raise DataError(f"{place} cannot be read ({error.strerror or error})") from error


def _unpacked(file: Path) -> gzip.GzipFile | io.BufferedReader:
    with file.open("rb") as raw:
        packed = raw.read(len(_GZIP)) == _GZIP
    return gzip.GzipFile(file) if packed else file.open("rb")


def _check_unpacked_size(file: Path, place: str) -> None:
    """Raise a DataError for a gzip file that would fill the memory."""
    most, size = max(_ALWAYS_UNPACKED, _MOST_PACKED * file.stat().st_size), 0
    with _unpacked(file) as stream:
        if not isinstance(stream, gzip.GzipFile):
            return
        while size <= most and (chunk := stream.read(_CHUNK)):
            size += len(chunk)
    if size > most:
        raise DataError(
            f"{place} unpacks to more than {_MOST_PACKED} times its size, which no text does: download it "
            "again, or unpack it"
        )


def _first_fault(file: Path) -> str:
    """The line, and the byte in it, that cannot be decoded."""
    with _unpacked(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number} holds the byte 0x{line[error.start]:02x}"
    return "its end is missing"


def _check_kind(head: bytes, place: str) -> None:
    kinds = [kind for beginning, kind in _KINDS.items() if head.lower().startswith(beginning.lower())]
    if not kinds and b"\0" in head:
        kinds = [("text in UTF-16 or UTF-32, or no text at all", _SAVE)]
    if kinds:
        what, instead = kinds[0]
        raise DataError(f"{place} is {what}: {instead}")

"""The seal of a finished run: `DONE` holds the size and SHA-256 of every file that the run wrote.

    {"finished": "2026-01-31T12:00:00+00:00",
     "files": {"metrics.jsonl": {"bytes": 5120, "sha256": "9f86…"}, …}}

Checksums are of the uncompressed content. Files that are written after the end of a run are not covered.
`DONE` of older runs holds only the time: their files cannot be verified.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from fnmatch import fnmatch
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from analysis.results.run_files import FileType, json_object, opened, typed
from editors.errors import DataError

COVERED = (
    "config.yaml", "provenance.json", "metrics.jsonl", "metrics.jsonl.gz", "summary.json", "*.parquet",
    "weights.safetensors", "updates/*.safetensors", "checkpoints/*.safetensors", "adapter/**/*",
)  # fmt: skip
"""Patterns of the files of a run, in its folder."""
_LONGEST = 255
"""Most bytes of the name of a file or folder."""


@typed
class _Content(TypedDict):
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@typed
class _Stored(TypedDict):
    files: dict[str, _Content]


_STORED = FileType(_Stored)


@dataclass(frozen=True)
class Content:
    """The content of a file as it was written."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Content":
        """The content of a file, or of `<path>.gz` in its place; raises DataError if that one is broken."""
        with unpacked(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(file.tell(), digest)


@dataclass(frozen=True)
class Seal:
    """The content of all files of a run, by path relative to its folder."""

    files: Mapping[str, Content]

    @classmethod
    def of(cls, folder: Path) -> "Seal":
        """The seal of the files that a run has written; half a second per GiB."""
        contents = zip(names := written(folder), _contents(folder, names), strict=True)
        return cls({name: content for name, content in contents if content is not None})

    @classmethod
    def read(cls, path: Path) -> "Seal | None":
        """The seal in a file `DONE`; None if it holds only a time, as before there were seals.

        Raises:
            DataError: if the file is damaged.
        """
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if _is_time(text):
            return None
        stored = json_object(text)
        if stored is None or _STORED.problem(stored) or not all(map(_is_inside, stored["files"])):
            raise DataError(f"{path} is damaged, and nothing in its folder can be verified: {REMEDY}")
        return cls({name: Content(c["bytes"], c["sha256"]) for name, c in stored["files"].items()})

    def text(self, finished: str) -> str:
        """The content of `DONE`; `finished` is the time."""
        files = {name: asdict(content) for name, content in sorted(self.files.items())}
        return json.dumps({"finished": finished, "files": files}, indent=1, ensure_ascii=False) + "\n"

    def problems(self, folder: Path, patterns: Iterable[str]) -> list[str]:
        """Sentences on the files matching a pattern that are missing, changed or new; others are not read."""
        listed = list(patterns)
        names = sorted(
            name for name in {*self.files, *written(folder)} if any(fnmatch(name, each) for each in listed)
        )
        return [
            f"{name} {problem}"
            for name, content in zip(names, _contents(folder, names), strict=True)
            if (problem := _difference(self.files.get(name), content))
        ]


UNVERIFIABLE = "their DONE is from before it held digests"
REMEDY = "copy the run again from where it was computed, or compute it again with resume=never"


def written(folder: Path) -> list[str]:
    """The files in a run's folder that a seal covers, relative to it; a compressed one by its former name."""
    paths = {path for pattern in COVERED for path in folder.glob(pattern) if path.is_file()}
    return sorted({path.relative_to(folder).as_posix().removesuffix(".gz") for path in paths})


def unlike_last(rows: Iterable[Mapping[str, object]], last: Mapping[str, object]) -> str:
    """The first metric whose last value in the rows is not the one in `last`; empty if there is none."""
    values = {key: value for row in rows for key, value in row.items() if key in last}
    return next((key for key, value in last.items() if _number(values.get(key)) != _number(value)), "")


@contextmanager
def unpacked(path: Path) -> Iterator[BufferedIOBase]:
    """A file, or the content of `<path>.gz` if there is only that one.

    Raises:
        FileNotFoundError: if there is neither.
        DataError: if the compressed one is cut short or broken.
    """
    packed = path.with_name(f"{path.name}.gz")
    if path.exists() or not packed.exists():
        with opened(path) as file:
            yield file
        return
    try:
        with opened(packed) as file, gzip.GzipFile(fileobj=file) as content:
            yield content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{packed} is cut short or broken") from error


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_inside(name: str) -> bool:
    """Whether a name is the relative path of a file inside the run's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return False
    return bool(path.parts) and all(len(part.encode()) <= _LONGEST for part in path.parts)


def _number(value: object) -> float | str:
    """The number, so that 2 equals 2.0; other values as text, NaN and null (strict JSON has no NaN) alike."""
    if value is None:
        return "nan"
    return float(value) if isinstance(value, int | float) and value == value else str(value)


def _contents(folder: Path, names: Iterable[str]) -> list[Content | None]:
    def read(name: str) -> Content | None:
        try:
            return Content.of(folder / name)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    with ThreadPoolExecutor() as threads:
        return list(threads.map(read, names))


def _difference(sealed: Content | None, content: Content | None) -> str:
    if sealed is None:
        return "was not written by the run"
    if content is None:
        return "is missing"
    if content.bytes != sealed.bytes:
        return f"has {content.bytes} bytes, but {sealed.bytes} were written"
    return "" if content == sealed else "has other bytes than were written"

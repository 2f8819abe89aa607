"""Files on the disk: atomic writes, waiting until data are there, and checksums."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

PART = ".part-"
"""Beginning of the names of unfinished files; only a process that was killed leaves one behind."""


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A file to write instead of `path`, which it replaces when it is complete; on an error it is removed.

    It is inside a folder `.part-…` beside `path`: libraries that write atomically themselves leave their own
    unfinished files there too. If `durable`, the disk has the file and its name when this returns.
    """
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f"{PART}{path.name}-", ignore_cleanup_errors=True
    ) as folder:
        part = Path(folder) / path.name
        yield part
        if durable:
            sync(part)
        part.replace(path)
    if durable:
        sync(path.parent)


def remove_parts(folder: Path, name: str = "") -> None:
    """Remove what processes that were killed left of files in a folder: of all, or only of the file `name`.

    Nobody else may write them meanwhile.
    """
    prefix = f"{PART}{name}-" if name else PART
    for part in [path for path in folder.glob("*") if path.name.startswith(prefix)]:
        shutil.rmtree(part, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file's content, or of its first `size` bytes, in hex digits; about 0.5 s per GiB."""
    with path.open("rb") as file:
        if size is not None:
            return hashlib.sha256(file.read(size)).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(paths: Iterable[Path]) -> dict[Path, str]:
    """The checksum of each file, computed in threads."""
    listed = list(paths)
    with ThreadPoolExecutor() as threads:
        return dict(zip(listed, threads.map(checksum, listed), strict=True))

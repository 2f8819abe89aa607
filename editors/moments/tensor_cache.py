"""Tensors on disk with a description: a folder of safetensors files that share one description.

A file is written under another name and renamed, so that it appears only when it is complete. It holds its
description, its own name and a digest of all its bytes. A file that is truncated or damaged, or that is of
another description or name, is reported in a warning and treated as missing.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from editors.data import Corpus
from editors.disk import remove_parts
from editors.errors import DataError
from editors.tensor_files import read_metadata, read_sealed, write_sealed

log = logging.getLogger(__name__)

_REMEDY = "it is computed again"


def unless_cached(corpus: Corpus, root: Path, name: str) -> Iterable[Corpus]:
    """The corpus, unless a cache of this name holds a readable file that was computed on it.

    Raises:
        DataError: if the corpus has no identity, which names its place in the cache.
    """
    identity = corpus.identity()
    cached = any(each.get("corpus") == identity for each in descriptions(root, name))
    return () if cached else (corpus,)


def hashed(description: Mapping[str, object]) -> str:
    """Twelve hex digits that are equal for equal descriptions."""
    return hashlib.sha256(_canonical(description).encode()).hexdigest()[:12]


def descriptions(root: Path, name: str) -> Iterator[Mapping[str, object]]:
    """The description of every cache of this name that holds a readable file."""
    for folder in sorted(root.glob(f"{escape(name)}-*")):
        for path in sorted(folder.glob("*.safetensors")):
            with suppress(DataError, ValueError):  # an unreadable file is as good as none
                yield json.loads(read_metadata(path, remedy=_REMEDY).get("description", "{}"))
                break


@dataclass(frozen=True, kw_only=True)
class CachedTensors:
    """The content of a file."""

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, str]
    """Metadata besides the description."""


class TensorCache:
    """The files of one description, in a folder named by its hash."""

    def __init__(self, root: Path, name: str, description: Mapping[str, object]) -> None:
        self.folder = root / f"{name}-{hashed(description)}"
        self._description = _canonical(description)

    def locked(self) -> FileLock:
        """The lock that every reader and writer of the folder has to hold."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def read(self, name: str) -> CachedTensors | None:
        """The content of a file; None if it is missing or unusable."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            tensors, notes = read_sealed(path, remedy=_REMEDY)
        except DataError as error:
            log.warning("%s", error)
            return None
        if (notes.pop("description", None), notes.pop("entry", None)) != (self._description, name):
            log.warning("%s belongs to another model, another layer or other settings: %s", path, _REMEDY)
            return None
        return CachedTensors(tensors=tensors, notes=notes)

    def write(self, name: str, tensors: Mapping[str, Tensor], **notes: object) -> None:
        """Write a file, which appears only when it is complete."""
        remove_parts(self.folder)  # of a process that was killed
        described = {"description": self._description, "entry": name}
        metadata = described | {key: str(value) for key, value in notes.items()}
        write_sealed(self._path(name), tensors, metadata)

    def remove(self, name: str) -> None:
        """Delete a file if it is there."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _canonical(description: Mapping[str, object]) -> str:
    return json.dumps(description, sort_keys=True)

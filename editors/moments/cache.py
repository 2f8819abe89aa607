"""Tensors on disk with a description: a folder of safetensors files that share one description.

A file is written under another name and renamed, so that it appears only when it is complete. A truncated
file, or one with another description, is reported in a warning and treated as missing.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)


def hashed(description: Mapping[str, object]) -> str:
    """Twelve hex digits that are equal for equal descriptions."""
    return hashlib.sha256(_canonical(description).encode()).hexdigest()[:12]


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
            with safe_open(path, framework="pt") as file:
                notes = dict(file.metadata() or {})
                if notes.pop("description", None) == self._description:
                    names = file.keys()
                    return CachedTensors(tensors={name: file.get_tensor(name) for name in names}, notes=notes)
            log.warning("%s describes another model, corpus or budget; it is computed again", path)
        except (SafetensorError, OSError) as error:
            log.warning("%s cannot be read (%s); it is computed again", path, error)
        return None

    def write(self, name: str, tensors: Mapping[str, Tensor], **notes: object) -> None:
        """Write a file, which appears only when it is complete."""
        path = self._path(name)
        partial = path.with_suffix(".writing")
        meta = {"description": self._description, **{key: str(value) for key, value in notes.items()}}
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial, metadata=meta)
        partial.replace(path)

    def remove(self, name: str) -> None:
        """Delete a file if it is there."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _canonical(description: Mapping[str, object]) -> str:
    return json.dumps(description, sort_keys=True)

"""Tensors on disk that say what they are: a folder of safetensors files under one description.

A file is written beside its place and renamed, so that it is there whole or not at all. One that is
truncated, or describes something else, is reported in a sentence and taken for missing.
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
class Stored:
    """Content of a file."""

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, str]
    """What was written down beside the description."""


class Store:
    """The files of one description, in a folder that is named by it."""

    def __init__(self, root: Path, name: str, description: Mapping[str, object]) -> None:
        self.folder = root / f"{name}-{hashed(description)}"
        self._description = _canonical(description)

    def locked(self) -> FileLock:
        """A lock that every reader and writer of the folder holds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def read(self, name: str) -> Stored | None:
        """The file of that name; None where there is none that can be used."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                notes = dict(file.metadata() or {})
                if notes.pop("description", None) == self._description:
                    return Stored(tensors={key: file.get_tensor(key) for key in file.keys()}, notes=notes)  # noqa: SIM118
            log.warning("%s describes another model, corpus or budget; it is computed anew", path)
        except (SafetensorError, OSError) as error:
            log.warning("%s cannot be read (%s); it is computed anew", path, error)
        return None

    def write(self, name: str, tensors: Mapping[str, Tensor], **notes: object) -> None:
        """Put a file in its place, whole."""
        path = self._path(name)
        beside = path.with_suffix(".writing")
        meta = {"description": self._description, **{key: str(value) for key, value in notes.items()}}
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, beside, metadata=meta)
        beside.replace(path)

    def remove(self, name: str) -> None:
        """Delete a file if it is there."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _canonical(description: Mapping[str, object]) -> str:
    return json.dumps(description, sort_keys=True)

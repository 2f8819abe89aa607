"""Named tensors in one safetensors file: the format of everything that a run saves of a model.

A file is complete or absent: it is written beside its place and renamed. `durable` waits until the disk has
it; a checkpoint waits for all of its files at once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from editors.digests import digest_of_tensors, digest_of_text
from editors.disk import sync
from editors.errors import DataError

_SEAL = "digest"
"""The key of the metadata that holds the digest of everything else."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    durable: bool = False,
) -> None:
    """Write tensors by name, and text by key, as one file; the folder has to exist."""
    part = path.with_suffix(".part")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, part, metadata=None if metadata is None else dict(metadata))
    if durable:
        sync(part)
    part.replace(path)
    if durable:
        sync(path.parent)


def read_tensors(path: Path, names: Iterable[str] | None = None, *, remedy: str) -> dict[str, Tensor]:
    """Tensors of a file, by name, on the CPU; all of them without `names`.

    Raises:
        DataError: if the file cannot be read; `remedy` ends the sentence.
    """
    with _opened(path, remedy) as stored:
        return {name: stored.get_tensor(name) for name in (stored.keys() if names is None else names)}


def read_metadata(path: Path, *, remedy: str) -> dict[str, str]:
    """The text of a file, by key; raises DataError as `read_tensors`."""
    with _opened(path, remedy) as stored:
        return dict(stored.metadata() or {})


def write_sealed(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, durable: bool = False
) -> None:
    """As `write_tensors`, with a digest of all tensors and metadata, which `read_sealed` checks."""
    seal = {_SEAL: _seal(tensors, metadata)}
    write_tensors(path, tensors, {**metadata, **seal}, durable=durable)


def read_sealed(path: Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of a file of `write_sealed`.

    Raises:
        DataError: if the file cannot be read, or its content is not the one that was written.
    """
    metadata = read_metadata(path, remedy=remedy)
    tensors = read_tensors(path, remedy=remedy)
    if metadata.pop(_SEAL, None) != _seal(tensors, metadata):
        raise DataError(f"{path} is damaged, or was not written by this version: {remedy}")
    return tensors, metadata


def _seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    return digest_of_text(f"{json.dumps(dict(metadata), sort_keys=True)}\0{digest_of_tensors(tensors)}")


@contextmanager
def _opened(path: Path, remedy: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as stored:
            yield stored
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}): {remedy}") from error

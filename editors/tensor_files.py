"""Named tensors in one safetensors file: the format of everything that a run saves of a model.

A file is complete or absent: it is written beside its place and renamed. `durable` waits until the disk has
it; a checkpoint waits for all of its files at once. The same tensors and texts give the same bytes:
safetensors stores texts in random order, and therefore several are stored as one, a JSON object with sorted
keys.
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
from editors.disk import replacing
from editors.errors import DataError

_TEXTS = "normscope"
"""The key under which several texts are stored as one; older files have a key for each."""
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
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = None if metadata is None else dict(metadata)
    if texts and len(texts) > 1:
        texts = {_TEXTS: json.dumps(texts, sort_keys=True)}
    with replacing(path, durable=durable) as part:
        part.touch()
        mode = part.stat().st_mode  # as the user's umask says; safetensors makes files for the user alone
        save_file(plain, part, metadata=texts)
        part.chmod(mode)


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
        metadata = dict(stored.metadata() or {})
    if _TEXTS not in metadata:
        return metadata
    try:
        return {str(key): str(text) for key, text in json.loads(metadata[_TEXTS]).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} holds no texts by key ({error}): {remedy}") from error


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

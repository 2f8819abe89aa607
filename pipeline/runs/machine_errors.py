"""Errors of the machine as sentences: no disk space, no permission, no memory."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from editors.errors import NormscopeError

_NO_SPACE = ("pytorchstreamwriter failed", "inline_container", "file write failed")
"""PyTorch's messages about a file that could not be written."""
_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
"""Messages of PyTorch's allocators."""


class MachineError(NormscopeError):
    """The machine lacks something that a run needs; the measurements so far are kept."""


@contextmanager
def as_machine_error() -> Iterator[None]:
    """Turn errors of the machine into a `MachineError` with a way out."""
    try:
        yield
    except OSError as error:
        raise MachineError(_of_disk(error)) from error
    except SafetensorError as error:
        raise MachineError(f"a file of weights could not be written or read: {error}") from error
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        first = str(error).strip().splitlines()[:1]
        if isinstance(error, RuntimeError) and _says(error, _NO_SPACE):
            raise MachineError(
                f"a file could not be written, as on a full disk ({first[0]}): free some space; "
                "the same command resumes from the last checkpoint"
            ) from error
        if isinstance(error, RuntimeError) and not _says(error, _NO_MEMORY):
            raise
        raise MachineError(
            f"there is not enough memory{f' ({first[0]})' if first else ''}: choose a smaller batch_size, "
            "fewer layers or stages, or more memory; the same command resumes from the last checkpoint"
        ) from error


def _says(error: Exception, texts: Sequence[str]) -> bool:
    return any(text in str(error).lower() for text in texts)


def _of_disk(error: OSError) -> str:
    path = f": {error.filename}" if error.filename else ""
    message = f"{error.strerror or error}{path}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{message}: free some space; the same command resumes from the last checkpoint"
    return message

"""What a machine can do to a run, in sentences: no space, no rights, no memory."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from editors.errors import NormscopeError

_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
"""How PyTorch's allocators put it."""


class MachineError(NormscopeError):
    """The machine did not give what a run needs; what was measured is kept."""


@contextmanager
def told() -> Iterator[None]:
    """Turn errors of the machine into a `MachineError` with a way out."""
    try:
        yield
    except OSError as error:
        raise MachineError(_of_disk(error)) from error
    except SafetensorError as error:
        raise MachineError(f"a file of weights could not be written or read: {error}") from error
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(text in str(error).lower() for text in _NO_MEMORY):
            raise
        first = str(error).strip().splitlines()[:1]
        raise MachineError(
            f"there is not enough memory{f' ({first[0]})' if first else ''}: choose a smaller batch_size, "
            "fewer layers or stages, or more memory; the same command goes on from the last saved state"
        ) from error


def _of_disk(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    reason = f"{error.strerror or error}{where}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{reason}: free some space; the same command goes on from the last saved state"
    return reason

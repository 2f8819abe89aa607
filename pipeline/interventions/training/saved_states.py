"""Reading the optimiser, scheduler and random state of a saved training without running code that they hold.

Trainer reads most of these files as tensors and numbers alone (`weights_only`). Of a sharded training,
torch.distributed.checkpoint unpickles its index `.metadata` and every number of the optimiser; the former is
checked here before, the latter are read with `TORCH_FORCE_WEIGHTS_ONLY_LOAD`.
"""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path

import torch

from editors.errors import DataError, first_line
from pipeline.checkpoints.stages import REMEDY

_ONLY_TENSORS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_INDEX = "torch.distributed.checkpoint."
_PLAIN = {("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")}


@contextmanager
def only_tensors(checkpoint: Path | None) -> Iterator[None]:
    """Inside, a checkpoint of Trainer is read as tensors, numbers and the index of shards alone.

    Raises:
        DataError: if it holds anything else.
    """
    if checkpoint is None:
        yield
        return
    before = os.environ.get(_ONLY_TENSORS)
    try:
        for index in sorted(checkpoint.glob("*/.metadata")):
            with index.open("rb") as file:
                _Index(file).load()
        os.environ[_ONLY_TENSORS] = "1"
        yield
    except pickle.UnpicklingError as error:
        raise DataError(
            f"the checkpoint {checkpoint} holds more than tensors and numbers, such as code, and is not read "
            f"({first_line(error)}): {REMEDY}"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_ONLY_TENSORS, None)
        else:
            os.environ[_ONLY_TENSORS] = before


class _Index(pickle.Unpickler):
    """Reads the index of shards: dataclasses and enumerations of torch.distributed.checkpoint."""

    def find_class(self, module: str, name: str) -> object:
        """The class of this name; raises UnpicklingError for any other."""
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        if "." not in name and (module == "torch" or module.startswith(_INDEX)):
            value = super().find_class(module, name)
            if module == "torch" and isinstance(value, torch.dtype):
                return value
            if isinstance(value, type) and value.__module__.startswith(_INDEX) and _is_record(value):
                return value
        raise pickle.UnpicklingError(f"the index of its shards names {module}.{name}")


def _is_record(kind: type) -> bool:
    """Whether making an instance does nothing else."""
    return is_dataclass(kind) or issubclass(kind, Enum)

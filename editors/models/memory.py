"""Memory that autograd saves in a forward pass, and free memory of the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from editors.models.model import Model

GIB = 2**30


@dataclass
class SavedBytes:
    """Bytes saved for the gradient; final once the `with` block is left."""

    bytes: int = 0


@contextmanager
def count_saved(model: Model) -> Iterator[SavedBytes]:
    """Count the bytes saved for the gradient inside the block: each storage once, weights excluded."""
    weights = {parameter.data_ptr() for parameter in model.hf.parameters()}
    storages: dict[int, int] = {}
    held: list[Tensor] = []  # otherwise a storage could be freed and its address reused
    saved = SavedBytes()

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        yield saved
    saved.bytes = sum(storages.values())


def free_memory(model: Model) -> int:
    """Free bytes on the model's device."""
    if model.device.type == "cuda":
        return torch.cuda.mem_get_info(model.device)[0]
    return psutil.virtual_memory().available

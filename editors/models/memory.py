"""What autograd keeps of a forward pass, and what is free."""

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
class Kept:
    """Bytes kept for the gradient; complete once the block is left."""

    bytes: int = 0


@contextmanager
def kept(model: Model) -> Iterator[Kept]:
    """Count what is saved for the gradient in the block, each storage once and the weights not at all."""
    weights = {parameter.data_ptr() for parameter in model.hf.parameters()}
    storages: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage is freed and its address used again
    found = Kept()

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        yield found
    found.bytes = sum(storages.values())


def free_memory(model: Model) -> int:
    """Bytes that are free where the model is."""
    if model.device.type == "cuda":
        return torch.cuda.mem_get_info(model.device)[0]
    return psutil.virtual_memory().available

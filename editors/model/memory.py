"""What autograd keeps of a forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from editors.model.model import Model


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

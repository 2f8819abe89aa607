"""Memory: of weights before they are allocated, saved by autograd in a forward pass, free on a device."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
import transformers
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedConfig

from editors.errors import ConfigError
from editors.models.architectures import family_of
from editors.models.model import Model
from editors.models.modules.four_bits import packed_bytes
from editors.updates import Site

GIB = 2**30
_BYTES_OF_MODULES = 1 << 16
"""Of the Python objects of a block."""


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


def free_memory(device: torch.device) -> int:
    """Free bytes on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def check_fits(thing: str, needed: int, device: torch.device, way_out: str) -> None:
    """Raise a ConfigError if something needs more bytes than are free: the system would kill the process."""
    free = free_memory(device)
    if needed > free:
        raise ConfigError(
            f"{thing} needs {needed / GIB:,.1f} GiB, but {device} has {free / GIB:,.1f} GiB free: {way_out}"
        )


def weight_bytes(config: PreTrainedConfig, dtype: torch.dtype, changed: Sequence[Site] | None = None) -> int:
    """Bytes of the parameters and buffers of a model of some depth, and of its modules.

    With `changed` the matrices of the blocks are in four bits, but those of the modules that change.
    Computed from a model of a single block without storage, since even an empty one of a million blocks
    would not fit.
    """
    single = copy.deepcopy(config)
    single.num_hidden_layers = 1
    with torch.device("meta"):
        hf = transformers.AutoModelForCausalLM.from_config(single, dtype=dtype)
    family = family_of(hf)
    blocks = hf.get_submodule(family.blocks)
    whole = _bytes_of(hf) - _bytes_of(blocks)
    whole += config.num_hidden_layers * (_bytes_of(blocks) + _BYTES_OF_MODULES)
    if changed is None:
        return whole
    kept = {(family.sites.get(site.name), site.layer) for site in changed}
    for path in dict.fromkeys(family.sites.values()):
        matrix = blocks.get_submodule(f"0.{path}").weight
        assert isinstance(matrix, Tensor)
        frozen = sum((path, layer) not in kept for layer in range(config.num_hidden_layers))
        whole -= frozen * (matrix.nbytes - packed_bytes(matrix.numel()))
    return whole


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))

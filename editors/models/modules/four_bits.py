"""Linear modules whose matrix is held in four bits and never changes (NF4, as QLoRA holds its base).

    W ≈ s_b · q[c],    c ∈ {0, …, 15},    s_b = max |w| over the 64 neighbouring entries of block b

q are the quantiles of a normal distribution, scaled to [−1, 1]. A matrix takes 0.5 bytes per entry and 4 for
each scale, 0.5625 in all. It is dequantised for every product, forward and back, and for every reader of
`weight`; no dequantised copy outlives that. Rounding and unpacking are those of the package bitsandbytes,
which has kernels for CPUs and GPUs: on a CPU its unpacking takes a fifth of the time of PyTorch's operations.

Source: Dettmers et al. 2023 (arXiv 2305.14314), without its second quantisation, of the scales.
"""

import logging
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from editors.errors import ConfigError

BLOCK = 64
"""Neighbouring entries that share a scale, in the order of memory: rows may share one."""
_KIND = "nf4"


def check_package() -> None:
    """Raise a ConfigError if bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "model.bits=4 needs the package bitsandbytes, which is not installed: pip install "
            "bitsandbytes, or leave out model.bits"
        )


def packed_bytes(entries: int) -> int:
    """Bytes of a matrix of so many entries: half a byte for each, and a float32 scale for each block."""
    return -(-entries // 2) + torch.float32.itemsize * -(-entries // BLOCK)


class FourBitLinear(nn.Module):
    """x Wᵀ + b, with W in four bits. `weight` is W dequantised, which nobody can write to."""

    codes: Tensor
    scales: Tensor

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        """Take the place of a `Linear` or `Conv1D`; matrix and bias go to the device.

        A matrix in float64 is rounded to float32 first, and dequantised from there.
        """
        super().__init__()
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor | None)
        self.shape = torch.Size(reversed(weight.shape)) if isinstance(module, Conv1D) else weight.shape
        self.dtype = weight.dtype
        matrix = weight.detach().to(device, _computed(weight.dtype))
        matrix = (matrix.T if isinstance(module, Conv1D) else matrix).contiguous()
        codes, state = _bitsandbytes().quantize_4bit(
            matrix, blocksize=BLOCK, compress_statistics=False, quant_type=_KIND
        )
        self.register_buffer("codes", codes)
        self.register_buffer("scales", state.absmax)
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(device), requires_grad=False)

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """W, dequantised: a new tensor at every call, in the precision that the matrix had."""
        library = _bitsandbytes()
        state = library.QuantState(
            absmax=self.scales.float(),
            # in one row: 0.50.2 takes wrong scales on a CPU for short rows that share a scale, such as of 96
            shape=(self.shape.numel(),),
            blocksize=BLOCK,
            quant_type=_KIND,
            dtype=_computed(self.dtype),
        )
        return library.dequantize_4bit(self.codes, state).view(self.shape).to(self.dtype)

    def forward(self, inputs: Float[Tensor, "*any in"]) -> Float[Tensor, "*any out"]:
        """x Wᵀ + b, differentiable by x."""
        return _Product.apply(inputs, self)

    def extra_repr(self) -> str:
        """The shape, as `Linear` shows it."""
        return f"in_features={self.shape[1]}, out_features={self.shape[0]}, bias={self.bias is not None}"


def _bitsandbytes() -> ModuleType:
    """The functions of bitsandbytes."""
    # on some CPUs it warns that it lacks a package for a product of its own, which is not used here
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return import_module("bitsandbytes.functional")  # here: it takes a second, and is optional


def _computed(dtype: torch.dtype) -> torch.dtype:
    """The precision of bitsandbytes' kernels for a matrix: they have none for float64."""
    return torch.float32 if dtype == torch.float64 else dtype


class _Product(torch.autograd.Function):
    """x Wᵀ + b, and its derivatives by x; autograd would keep every dequantised matrix until the way back."""

    @staticmethod
    def forward(inputs: Tensor, module: FourBitLinear) -> Tensor:
        return linear(inputs, module.weight, module.bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.module = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] @ ctx.module.weight, None

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Tensor:
        return linear(grad_inputs[0], ctx.module.weight)

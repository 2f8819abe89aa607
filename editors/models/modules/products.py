"""Products with the weights of linear modules through oneDNN, which a CPU multiplies in float32 faster.

PyTorch gives a float32 product on a CPU to MKL, which is slow for few rows and does not use the widest
instructions of every processor. oneDNN reads the weight as it lies, without a copy of it: a product of 42
rows with a 1536 by 576 matrix took half of MKL's time. Both round in float32, but in another order.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@contextmanager
def onednn_products(model: nn.Module, *, rounded: bool = False) -> Iterator[None]:
    """Linear modules with float32 weights on a CPU multiply through oneDNN inside the `with` block.

    If `rounded`, inputs and weights are rounded to bfloat16 for it, and the products are summed in float32.
    Gradients are those of the inputs. A weight that needs a gradient, another precision, and another device
    are left to PyTorch, as are modules whose `forward` something else has replaced (offloaded weights).
    """
    with ExitStack() as stack:
        if _available():
            for module in model.modules():
                if type(module) in (nn.Linear, Conv1D) and "forward" not in vars(module):
                    module.forward = partial(_forward, module, module.forward, rounded)
                    stack.callback(delattr, module, "forward")
        yield


def has_bfloat16_products() -> bool:
    """Whether PyTorch, from 2.9 on, and this processor multiply in bfloat16."""
    has_setting = hasattr(torch.backends.mkldnn, "matmul")
    return _available() and has_setting and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _available() -> bool:
    """Whether this build of PyTorch has oneDNN, and the user has not switched it off."""
    backend = torch.backends.mkldnn
    return backend.is_available() and backend.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _forward(
    module: nn.Module, usual: Callable[[Tensor], Tensor], rounded: bool, inputs: Float[Tensor, "*any in"]
) -> Float[Tensor, "*any out"]:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    if not _suits(inputs, weight) or (isinstance(bias, Tensor) and bias.requires_grad):
        return usual(inputs)
    return _Product.apply(inputs, weight.T if isinstance(module, Conv1D) else weight, bias, rounded)


def _suits(inputs: Tensor, weight: Tensor) -> bool:
    single = inputs.dtype == weight.dtype == torch.float32
    on_cpu = inputs.device.type == weight.device.type == "cpu"
    return single and on_cpu and inputs.numel() > 0 and not weight.requires_grad


def _multiplied(
    inputs: Float[Tensor, "*any in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
    rounded: bool,
) -> Float[Tensor, "*any out"]:
    """x Wᵀ + b."""
    with _bfloat16() if rounded else nullcontext():
        return torch.ops.mkldnn._linear_pointwise(inputs.contiguous(), weight, bias, "none", [], "")


@contextmanager
def _bfloat16() -> Iterator[None]:
    """oneDNN rounds the factors of float32 products to bfloat16 inside the `with` block."""
    # not for whole passes: rounded, the small products of the fused attention take ten times as long
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    assert matmul is not None  # has_bfloat16_products() was asked
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


class _Product(torch.autograd.Function):
    """x Wᵀ + b, and the gradient by x."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, rounded: bool) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.rounded = rounded
        return _multiplied(inputs, weight, bias, rounded)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), (weight,) = grad_outputs, ctx.saved_tensors
        return _Product.apply(gradient, weight.T, None, ctx.rounded), None, None, None

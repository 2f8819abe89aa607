"""Products with the weights of linear modules through oneDNN, which a CPU multiplies in float32 faster.

PyTorch gives a float32 product on a CPU to MKL, which is slow for few rows and does not use the widest
instructions of every processor. oneDNN reads the weight as it lies, without a copy of it: a product of 42
rows with a 1536 by 576 matrix took half of MKL's time. Both round in float32, but in another order.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@contextmanager
def onednn_products(model: nn.Module) -> Iterator[None]:
    """Linear modules with float32 weights on a CPU multiply through oneDNN inside the `with` block.

    Gradients are those of the inputs. A weight that needs a gradient, another precision, and another device
    are left to PyTorch, as are modules whose `forward` something else has replaced (offloaded weights).
    """
    with ExitStack() as stack:
        if _available():
            for module in model.modules():
                if type(module) in (nn.Linear, Conv1D) and "forward" not in vars(module):
                    module.forward = partial(_forward, module, module.forward)
                    stack.callback(delattr, module, "forward")
        yield


def _available() -> bool:
    """Whether this build of PyTorch has oneDNN, and the user has not switched it off."""
    backend = torch.backends.mkldnn
    return backend.is_available() and backend.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _forward(
    module: nn.Module, usual: Callable[[Tensor], Tensor], inputs: Float[Tensor, "*any in"]
) -> Float[Tensor, "*any out"]:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    if not _suits(inputs, weight) or (isinstance(bias, Tensor) and bias.requires_grad):
        return usual(inputs)
    return _Product.apply(inputs, weight.T if isinstance(module, Conv1D) else weight, bias)


def _suits(inputs: Tensor, weight: Tensor) -> bool:
    single = inputs.dtype == weight.dtype == torch.float32
    on_cpu = inputs.device.type == weight.device.type == "cpu"
    return single and on_cpu and inputs.numel() > 0 and not weight.requires_grad


def _multiplied(
    inputs: Float[Tensor, "*any in"], weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "*any out"]:
    """x Wᵀ + b."""
    return torch.ops.mkldnn._linear_pointwise(inputs.contiguous(), weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """x Wᵀ + b, and the gradient by x."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _multiplied(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (weight,) = grad_outputs, ctx.saved_tensors
        return _Product.apply(gradient, weight.T, None), None, None

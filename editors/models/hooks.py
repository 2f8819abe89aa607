"""Reading and replacing activations; hooks exist only inside a `with` block.

with capture(inputs={5: model.module("mlp_down", 5)}) as captured:
    model.hidden(batch)
keys = captured[5]          # (batch, token, d_in)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class _Stop(Exception):
    """Ends a forward pass above the highest captured module."""


def first_tensor(value: Tensor | tuple) -> Tensor:
    """The hidden states among inputs or outputs of a module: the tensor itself, or the first of a tuple."""
    return value if isinstance(value, Tensor) else value[0]


@contextmanager
def capture(
    *,
    inputs: Mapping[Any, nn.Module] | None = None,
    outputs: Mapping[Any, nn.Module] | None = None,
    stop_before: nn.Module | None = None,
    stop_after: nn.Module | None = None,
) -> Iterator[dict[Any, Tensor]]:
    """Inputs (`inputs`) or outputs (`outputs`) of modules in the forward pass inside the `with` block.

    For a module that is called twice, the last call counts. The pass ends silently after the module
    `stop_after` or before the module `stop_before`; nothing above it is computed.
    """
    captured: dict[Any, Tensor] = {}
    with ExitStack() as stack:
        for key, module in (inputs or {}).items():
            _attach(stack, module.register_forward_pre_hook(_reader(captured, key)))
        for key, module in (outputs or {}).items():
            _attach(stack, module.register_forward_hook(_writer(captured, key)))
        if stop_before is not None:
            _attach(stack, stop_before.register_forward_pre_hook(_stop))
        if stop_after is not None:
            _attach(stack, stop_after.register_forward_hook(_stop))
        with suppress(_Stop):
            yield captured


@contextmanager
def observe(modules: Mapping[Any, nn.Module], see: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """Call `see(key, output)` with the output of each module as soon as it is computed; nothing is stored.

    A pass over all blocks then needs the memory of one output, besides whatever `see` stores.
    """

    def hook_of(key: Any) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
            see(key, first_tensor(output))

        return hook

    with ExitStack() as stack:
        for key, module in modules.items():
            _attach(stack, module.register_forward_hook(hook_of(key)))
        yield


@contextmanager
def replace_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let `module` return `change(output)` instead of its output."""

    def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
        changed = change(first_tensor(output))
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _attach(stack: ExitStack, handle: RemovableHandle) -> None:
    stack.callback(handle.remove)


def _reader(captured: dict[Any, Tensor], key: Any) -> Callable:
    def hook(_module: nn.Module, inputs: tuple) -> None:
        captured[key] = inputs[0]

    return hook


def _writer(captured: dict[Any, Tensor], key: Any) -> Callable:
    def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
        captured[key] = first_tensor(output)

    return hook


def _stop(*_: object) -> None:
    raise _Stop

"""Reading and replacing activations; hooks exist only inside a `with` block.

with capture(inputs={5: model.module("mlp_down", 5)}) as seen:
    model.hidden(batch)
keys = seen[5]          # (batch, token, d_in)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class _Stop(Exception):
    """Ends a forward pass above the highest module that is wanted."""


def first_tensor(value: Tensor | tuple) -> Tensor:
    """The hidden states of a module that takes or gives a tensor, or a tuple that begins with one."""
    return value if isinstance(value, Tensor) else value[0]


@contextmanager
def capture(
    *,
    inputs: Mapping[Any, nn.Module] | None = None,
    outputs: Mapping[Any, nn.Module] | None = None,
    stop_before: nn.Module | None = None,
    stop_after: nn.Module | None = None,
) -> Iterator[dict[Any, Tensor]]:
    """What the named modules read (`inputs`) or wrote (`outputs`) in the forward pass of the block.

    The last call counts where a module is called twice. With `stop_after` the pass ends, silently, once
    that module has run, with `stop_before` once its input is there; nothing above it is computed.
    """
    seen: dict[Any, Tensor] = {}
    with ExitStack() as stack:
        for key, module in (inputs or {}).items():
            _attach(stack, module.register_forward_pre_hook(_reader(seen, key)))
        for key, module in (outputs or {}).items():
            _attach(stack, module.register_forward_hook(_writer(seen, key)))
        if stop_before is not None:
            _attach(stack, stop_before.register_forward_pre_hook(_stop))
        if stop_after is not None:
            _attach(stack, stop_after.register_forward_hook(_stop))
        with suppress(_Stop):
            yield seen


@contextmanager
def observe(modules: Mapping[Any, nn.Module], see: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """Hand what each module writes to `see(key, output)` as soon as it is there; nothing is kept.

    So the memory of a pass over all blocks is that of one output, whatever `see` keeps apart.
    """

    def teller(key: Any) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
            see(key, first_tensor(output))

        return hook

    with ExitStack() as stack:
        for key, module in modules.items():
            _attach(stack, module.register_forward_hook(teller(key)))
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


def _reader(seen: dict[Any, Tensor], key: Any) -> Callable:
    def hook(_module: nn.Module, inputs: tuple) -> None:
        seen[key] = inputs[0]

    return hook


def _writer(seen: dict[Any, Tensor], key: Any) -> Callable:
    def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
        seen[key] = first_tensor(output)

    return hook


def _stop(*_: object) -> None:
    raise _Stop

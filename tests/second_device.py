"""A second device on paper: tensors that say they are elsewhere, with numbers that the CPU computes.

Inside `SecondDevice()` PyTorch has a device `SECOND` that behaves as CUDA does where a mistake would show:

* tensors of both devices in one operation are refused, except where CUDA takes them: a CPU tensor without
  dimensions in a pointwise operation, and indices from the CPU;
* a tensor of the device has no memory that the host can read: `numpy()` fails;
* a generator of the CPU does not draw numbers for the device;
* whatever makes the host wait for the device is counted, with the line of this project that asked for it.

The device is PyTorch's type "lazy", whose backend nobody loads: a tensor of it is a wrapper around one on the
CPU, and autograd, factories and `to` work as usual.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from editors.models.model import Model
from tests.paths import ROOT

SECOND = torch.device("lazy", 0)
_CPU = torch.device("cpu")
_PACKAGES = tuple(str(ROOT / name) for name in ("editors", "analysis", "pipeline"))

_aten = torch.ops.aten
_INDEXED = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_, _aten._unsafe_index)
"""Take their indices from the CPU as well."""
_FILLED = (*_INDEXED[1:4], _aten.fill, _aten.fill_, _aten.masked_fill, _aten.masked_fill_)
"""Take a value without dimensions from the CPU, as pointwise operations do."""
_WAITING = (
    _aten._local_scalar_dense, _aten.equal, _aten.nonzero, _aten.masked_select, _aten.masked_scatter_backward,
    _aten.unique_dim, _aten.unique_consecutive, _aten._unique2, _aten.bincount, _aten._linalg_check_errors,
    _aten._linalg_eigh, _aten._linalg_svd, _aten.linalg_eig,
)  # fmt: skip
"""Return numbers or shapes that the host has to know."""


class Elsewhere(Tensor):
    """A tensor of the second device."""

    held: Tensor
    home: "SecondDevice"

    @staticmethod
    def __new__(cls, held: Tensor, home: "SecondDevice") -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=SECOND,
        )  # fmt: skip
        made.held, made.home = held, home
        return made

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} elsewhere"

    def tolist(self) -> Any:
        """PyTorch's own wants no subclasses."""
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """In another thread, where no mode is active."""
        first = next(value for value in tree_leaves((args, kwargs)) if isinstance(value, Elsewhere))
        return first.home.__torch_dispatch__(func, types, args, kwargs)


class SecondDevice(TorchDispatchMode):
    """Inside it the second device exists."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        """How often the host waited for the device, by operation and line."""
        self._lifting: list[bool] = []

    def __enter__(self) -> "SecondDevice":
        self._lifting.append(torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes on the CPU what `to` then moves
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._lifting.pop())
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not any(_is_elsewhere(value) for value in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if not torch.is_inference_mode_enabled():
            return self._run(func, args, kwargs)
        with self:  # inference mode leaves it to us to take composite operations apart
            found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
        with torch.inference_mode(False), torch.no_grad():  # no wrapper can be made of its tensors
            return self._run(func, args, kwargs)

    def _run(self, func: Any, args: tuple, kwargs: dict) -> Any:
        packet, (flat, spec) = func.overloadpacket, tree_flatten((args, kwargs))
        ours = [value for value in flat if isinstance(value, Elsewhere)]
        device = kwargs.get("device")
        _refuse_mixtures(func, args, flat)
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{packet} draws for {SECOND} from a generator of the CPU")
        if _waits(packet, args, device):
            self.waits[f"{packet.__name__} in {_line()}"] += 1
        if packet is _aten._efficientzerotensor:  # of forward derivatives: zeros without memory
            func = _aten.zeros.default
        held = [value.held if isinstance(value, Elsewhere) else value for value in flat]
        args, kwargs = tree_unflatten(held, spec)
        found = func(*args, **(kwargs | ({"device": _CPU} if _is_elsewhere(device) else {})))
        if packet is _aten.copy_:
            return flat[0]
        if device is not None and not _is_elsewhere(device):
            return found
        known = {id(value.held): value for value in ours}  # operations in place return what they were given
        return tree_map_only(
            Tensor, lambda value: known[id(value)] if id(value) in known else Elsewhere(value, self), found
        )


def _is_elsewhere(value: object) -> bool:
    """Whether it is a tensor of the second device, or the device."""
    return isinstance(value, Elsewhere) or (isinstance(value, torch.device) and value.type == SECOND.type)


def _refuse_mixtures(func: Any, args: tuple, flat: Iterable[object]) -> None:
    """Raise the error that CUDA raises."""
    packet, tensors = func.overloadpacket, [value for value in flat if isinstance(value, Tensor)]
    if packet in (_aten.copy_, _aten._to_copy):
        return
    strangers = [value for value in tensors if not isinstance(value, Elsewhere)]
    if packet in _INDEXED and isinstance(args[0], Elsewhere):
        indices = {id(index) for index in args[1]}
        strangers = [value for value in strangers if id(value) not in indices]
    takes_scalars = torch.Tag.pointwise in func.tags or packet in _FILLED or func.namespace == "prims"
    is_written = func._schema.is_mutable and any(value is args[0] for value in strangers)
    if is_written or any(value.dim() or not takes_scalars for value in strangers):
        shapes = ", ".join(str(tuple(value.shape)) for value in strangers)
        raise RuntimeError(f"{packet} of tensors on two devices: {shapes} on the CPU, the others on {SECOND}")


def _waits(packet: Any, args: tuple, device: torch.device | None) -> bool:
    """Whether the host waits for the device."""
    if packet is _aten.copy_:
        return not isinstance(args[0], Elsewhere)
    if packet is _aten._to_copy:
        return device == _CPU
    if packet in _INDEXED:
        masks = any(isinstance(index, Elsewhere) and index.dtype == torch.bool for index in args[1])
        return masks and not (packet in _FILLED and args[2].numel() == 1 and True not in args[3:4])
    return packet in _WAITING or (packet is _aten.repeat_interleave and len(args) < 3)


def _line() -> str:
    """The line of this project's packages that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGES):
            path = frame.f_code.co_filename.removeprefix(f"{ROOT}/")
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return "a backward pass"


def moved(model: Model, device: SecondDevice) -> Model:
    """The same model on the second device; its modules are changed in place."""
    made: dict[int, Tensor] = {}

    def move(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        if id(value) not in made:
            there = Elsewhere(value.detach(), device)
            is_parameter = isinstance(value, nn.Parameter)
            made[id(value)] = nn.Parameter(there, requires_grad=False) if is_parameter else there
        return made[id(value)]

    for module in model.hf.modules():
        for values in (module._parameters, module._buffers):
            values.update({name: move(value) for name, value in values.items()})
    return model

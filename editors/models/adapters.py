"""Low-rank adapters (LoRA) on named matrices, with peft: attached, measured as if merged, merged, removed.

    W x + (α / r) B A dropout(x),    A: (r, in), B: (out, r), B = 0 at the start

The change of a matrix is ΔW = (α / r) B A. Adapters are peft's own modules, so that transformers' Trainer
trains, saves and resumes them. Initialisations that need data or change W itself are left out: PiSSA,
OLoRA, LoftQ, CorDA, EVA; `orthogonal` too, whose B A is zero only up to rounding.

Source: Hu et al. 2021 (arXiv 2106.09685).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from editors.errors import ConfigError, NumericsError
from editors.models.memory import check_fits
from editors.models.model import Model
from editors.updates import Delta, Site, sites_of

if TYPE_CHECKING:
    import peft

Initialisation = Literal["default", "gaussian"]
"""Distribution of A: uniform as in the published code (Kaiming, a = √5), or normal with deviation 1 / r."""

ADAPTER = "default"
"""peft's name of the only adapter."""


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """The matrices that get an adapter, and its kind."""

    rank: int = 8
    """r, the largest rank of a change."""
    alpha: float = 16.0
    """α; the change is scaled by α / r."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is dropped in training."""
    sites: Sequence[str] = ("attn_q", "attn_v")
    """Adapted matrices of each block."""
    layers: Sequence[int] | None = None
    """Adapted blocks; null is all of them."""
    initialisation: Initialisation = "default"
    """Distribution of A at the start."""
    seed: int = 0
    """Seed of the initialisation."""

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)}, but it has to be positive")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout}, but it has to be at least 0 and below 1")
        if not self.sites:
            raise ConfigError("sites is empty; name at least one matrix, for example attn_q")

    def check(self, model: Model) -> None:
        """Raise a `ConfigError` for the first matrix or block that the model lacks, or holds in four bits."""
        for name in self.sites:
            if name not in model.sites:
                raise ConfigError(
                    f"sites names {name}, but the blocks of {model.name} have {', '.join(model.sites)}"
                )
        if self.layers is not None:
            model.check_layers(self.layers, "layers")
        model.check_changeable(sites_of(self.layers or range(model.depth), self.sites))

    def attach(self, model: Model) -> "Adapters":
        """Put fresh adapters into the model, in place; global random state stays as it is.

        A matrix that shares its module with others (q, k and v of GPT-2 and GPT-NeoX) is adapted with them:
        all of them change.

        Raises:
            ConfigError: for a matrix or a block that the model lacks, a model that has adapters already, or
                adapters larger than the free memory.
        """
        from peft import PeftModel, get_peft_model  # here: it takes seconds

        self.check(model)
        if hasattr(model.hf, "peft_config"):
            raise ConfigError(f"{model.name} has adapters already; merge or detach those first")
        named = range(model.depth) if self.layers is None else self.layers
        layers = [layer for layer in range(model.depth) if layer in named]
        slots = [_ModuleSlot(model, layer, path) for layer in layers for path in self._paths(model)]
        self._check_memory(model, slots)
        with seeded(self.seed), warnings.catch_warnings():
            # peft reads a property of transformers that was renamed
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            adapted = get_peft_model(model.hf, self._config(model, slots))
        assert isinstance(adapted, PeftModel)
        adapted.eval()  # modules are made in training mode
        return Adapters(model, adapted, slots)

    def _check_memory(self, model: Model, slots: Sequence["_ModuleSlot"]) -> None:
        """Raise a ConfigError if the adapters, their gradients and Adam's two moments cannot fit.

        Beside them lie copies of the factors of one matrix, of which the norm is taken in float64.
        """
        shapes = [_weight_of(slot.base).shape for slot in slots]
        kept = 4 * torch.float32.itemsize * self.rank * sum(sum(shape) for shape in shapes)
        measured = max(self._bytes_of_norm(shape) for shape in shapes)
        check_fits(f"an adapter of rank={self.rank}", kept + measured, model.device, "choose a smaller rank")

    def _bytes_of_norm(self, shape: torch.Size) -> int:
        """Bytes of the factors of one change, in two precisions, and of the products in its norm."""
        single, double = torch.float32.itemsize, torch.float64.itemsize
        return (single + double) * self.rank * sum(shape) + 3 * double * min(self.rank**2, prod(shape))

    def _paths(self, model: Model) -> list[str]:
        return list(dict.fromkeys(model.family.sites[name] for name in model.sites if name in self.sites))

    def _config(self, model: Model, slots: Sequence["_ModuleSlot"]) -> "peft.LoraConfig":
        from peft import LoraConfig, TaskType

        names = {module: name for name, module in model.hf.named_modules()}
        return LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType] - a factor, whole or not
            lora_dropout=self.dropout,
            target_modules=[names[slot.module] for slot in slots],
            fan_in_fan_out=any(isinstance(slot.module, Conv1D) for slot in slots),
            init_lora_weights=True if self.initialisation == "default" else "gaussian",
        )


class _ModuleSlot:
    """The attribute of a parent module that holds one adapted module, and the matrices in it."""

    def __init__(self, model: Model, layer: int, path: str) -> None:
        above, _, self.name = path.rpartition(".")
        self.parent = model.block(layer).get_submodule(above)
        self.sites = [Site(name, layer) for name in model.sites if model.family.sites[name] == path]
        self.base: nn.Module = self.module

    @property
    def module(self) -> nn.Module:
        """The current module."""
        return getattr(self.parent, self.name)

    @property
    def adapter(self) -> "peft.tuners.lora.LoraLayer":
        """The current module as an adapted one."""
        from peft.tuners.lora import LoraLayer

        layer = self.module
        assert isinstance(layer, LoraLayer)
        return layer

    def put(self, module: "nn.Module | peft.tuners.lora.LoraLayer") -> None:
        """Replace the module."""
        setattr(self.parent, self.name, module)


class Adapters:
    """The adapters of one model, until they are merged or detached.

    `peft` is the model for a Trainer. While they are attached, `Model.weight` and `Model.current` are W.
    """

    def __init__(self, model: Model, peft: "peft.PeftModel", slots: Sequence[_ModuleSlot]) -> None:
        self.model = model
        self.peft = peft
        self._slots = slots
        self._layers = [slot.adapter for slot in slots]

    @property
    def sites(self) -> list[Site]:
        """Every matrix that changes, lowest block first, in the order of the forward pass."""
        return [site for slot in self._slots for site in slot.sites]

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every adapted module."""
        return [_weight(part) for layer in self._layers for part in (layer.lora_A, layer.lora_B)]

    def train(self, mode: bool = True) -> None:
        """Switch the adapters' dropout on or off; the model's own stays as it is."""
        for layer in self._layers:
            layer.lora_dropout.train(mode)

    def products(self) -> dict[Site, Delta]:
        """ΔW of every matrix as factors: (α / r) B as (out, r) and Aᵀ as (in, r), copies."""
        return dict(self._changes())

    def norms(self) -> dict[str, dict[Site, float]]:
        """Frobenius norms, in float64: of the `change` ΔW, of `A` and of `B`.

        Matrices of one module share A, and each has its rows of B.
        """
        return {
            "change": {site: delta.norm() for site, delta in self._changes()},
            "A": {site: float(a.double().norm()) for site, _, a, _ in self._factors()},
            "B": {site: float(b.double().norm()) for site, _, _, b in self._factors()},
        }

    @contextmanager
    def merged(self) -> Iterator[Model]:
        """The plain model with W + ΔW in its weights, in evaluation mode, inside the block.

        Matrices in half precision get float32 masters, as an edit gives them. W is set aside rather than
        recomputed: afterwards weights, masters, adapters and modes are as they were, bit for bit.

        Raises:
            NumericsError: for NaN or infinity in a changed weight; everything is as it was.
        """
        modes = {module: module.training for module in self.model.hf.modules()}
        undo = self._insert()
        try:
            self.model.hf.eval()
            yield self.model
        finally:
            undo()
            for module, mode in modes.items():
                module.training = mode

    def merge(self) -> None:
        """Leave W + ΔW in the weights and drop the adapters.

        Raises:
            NumericsError: for NaN or infinity in a changed weight; the adapters stay, unmerged.
        """
        self._insert()
        self.detach()

    def detach(self) -> None:
        """Drop the adapters: the plain model again, in evaluation mode and without gradients."""
        for slot in self._slots:
            slot.put(slot.base)
        vars(self.model.hf).pop("peft_config", None)
        self.model.hf.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write the adapters as safetensors with their configuration, as peft reads them."""
        # embeddings are never adapted; peft would query the hub to find out
        self.peft.save_pretrained(str(folder), save_embedding_layers=False)

    def _insert(self) -> Callable[[], None]:
        """Replace the adapters by plain modules with W + ΔW; returns a function that undoes it."""
        weights, masters = [slot.base.weight for slot in self._slots], self.model.masters

        def undo() -> None:
            for slot, layer, weight in zip(self._slots, self._layers, weights, strict=True):
                slot.base.weight = weight
                slot.put(layer)
            self.model.masters = masters

        for slot, weight in zip(self._slots, weights, strict=True):
            assert isinstance(weight, Tensor)
            slot.base.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
            slot.put(slot.base)
        try:
            for site, change in self._changes():  # one at a time, so that only one W + ΔW is in memory
                self.model.apply({site: change})
        except NumericsError:
            undo()
            raise
        return undo

    def _changes(self) -> Iterator[tuple[Site, Delta]]:
        """The entries of `products`, of which each is copied only when it is asked for."""
        for site, scaling, a, b in self._factors():
            yield site, Delta(left=b * scaling, right=a.T.clone())

    def _factors(self) -> Iterator[tuple[Site, float, Tensor, Tensor]]:
        """α / r, A and the rows of B of every matrix."""
        family, config = self.model.family, self.model.hf.config
        for slot, layer in zip(self._slots, self._layers, strict=True):
            a, b = (_weight(part).detach() for part in (layer.lora_A, layer.lora_B))
            for site in slot.sites:
                rows = family.fused.get(site.name)
                yield site, layer.scaling[ADAPTER], a, b if rows is None else b[rows(config)]


def _weight_of(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight


def _weight(part: nn.ModuleDict) -> nn.Parameter:
    weight = part[ADAPTER].weight
    assert isinstance(weight, nn.Parameter)
    return weight


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global random state from a seed inside the block, and as it was after it, on all devices."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield

"""The weights that a training changes: all, some, or an adapter that is merged into them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from editors.errors import ConfigError
from editors.models.adapters import Adapters, LoRA
from editors.models.gradients import check_sites
from editors.models.model import Model
from editors.updates import Site

_NORMS = {"change": "norm_product", "A": "norm_a", "B": "norm_b"}


class Trainee(Protocol):
    """A model that is being trained."""

    @property
    def model(self) -> Model:
        """The model, for measurements."""
        ...

    @property
    def module(self) -> nn.Module:
        """The module passed to the Trainer, which trains its parameters that require a gradient."""
        ...

    @property
    def sites(self) -> Sequence[Site]:
        """Every named matrix that changes."""
        ...

    def plain(self) -> AbstractContextManager[object]:
        """Inside, the model is an ordinary one that can be measured, and edited if `in_place` holds."""
        ...

    def numbers(self) -> Mapping[str, float]:
        """Numbers beside those of the weights, by metric key."""
        ...

    def end(self, folder: Path) -> None:
        """Make the model an ordinary one again; files to keep, such as an adapter, go into `folder`."""
        ...

    def give_up(self) -> None:
        """Make the model an ordinary one again after an error."""
        ...


@runtime_checkable
class Trained(Protocol):
    """A choice of weights."""

    @property
    def in_place(self) -> bool:
        """Whether edits between two training steps persist."""
        ...

    def check(self, model: Model) -> None:
        """Raise a ConfigError for blocks and matrices that the model does not have."""
        ...

    def begin(self, model: Model) -> Trainee:
        """Make the model ready to be trained."""
        ...


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Every parameter, or only the named matrices of some blocks.

    A fused module, such as GPT-2's `c_attn`, is trained as a whole: its queries, keys and values all change.
    """

    sites: Sequence[str] | None = None
    """Kinds of matrix; null is all. If `layers` is null too: every parameter, also embeddings and norms."""
    layers: Sequence[int] | None = None
    """Blocks; null is all."""

    @property
    def in_place(self) -> bool:
        """Always true: the weights themselves are trained."""
        return True

    def check(self, model: Model) -> None:
        """Raise a ConfigError for a block or matrix that the model lacks, and for half precision."""
        if self.layers is not None:
            model.check_layers(self.layers, "intervention.trained.layers")
        check_sites(model, self.named(model), key="intervention.trained.sites")
        if torch.finfo(model.dtype).bits < 32:
            raise ConfigError(
                f"{model.name} is in {str(model.dtype).removeprefix('torch.')}, where small steps would be "
                "rounded away: set model.dtype=float32 intervention.precision=bfloat16, or intervention=lora"
            )

    def named(self, model: Model) -> list[Site]:
        """The chosen matrices, and those that share a module with one of them."""
        layers = range(model.depth) if self.layers is None else self.layers
        names = model.sites if self.sites is None else self.sites
        paths = {model.family.sites.get(name, name) for name in names}
        together = [name for name in model.sites if model.family.sites[name] in paths]
        unknown = [name for name in names if name not in model.sites]
        return [Site(name, layer) for layer in layers for name in [*together, *unknown]]

    def begin(self, model: Model) -> Trainee:
        """Require gradients of the chosen parameters."""
        sites = self.named(model)
        if self.sites is None and self.layers is None:
            parameters = list(model.hf.parameters())
        else:
            modules = {model.module(site.name, site.layer): None for site in sites}
            parameters = [module.get_parameter("weight") for module in modules]
        return _TrainedWeights(model=model, sites=sites, parameters=parameters)


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Adapters of low rank beside frozen matrices (LoRA, arXiv 2106.09685), merged into them at the end."""

    adapter: LoRA
    merge: bool = True
    """Whether W + BA is kept; otherwise W is, and the adapter is saved in the run's folder."""

    @property
    def in_place(self) -> bool:
        """Always false: between steps the model holds W + BA, which the next step recomputes."""
        return False

    def check(self, model: Model) -> None:
        """Raise a ConfigError that names the first block or matrix that the model does not have."""
        try:
            self.adapter.check(model)
        except ConfigError as error:
            raise ConfigError(f"intervention.trained.adapter.{error}") from error

    def begin(self, model: Model) -> Trainee:
        """Attach the adapters."""
        return _TrainedAdapters(model=model, adapters=self.adapter.attach(model), merge=self.merge)


@dataclass
class _TrainedWeights:
    model: Model
    sites: Sequence[Site]
    parameters: Sequence[nn.Parameter]

    def __post_init__(self) -> None:
        self._require(True)

    @property
    def module(self) -> nn.Module:
        return self.model.hf

    @contextmanager
    def plain(self) -> Iterator[None]:
        self._require(False)  # gradients of editors and stages must not reach the next step
        try:
            yield
        finally:
            self._require(True)

    def numbers(self) -> Mapping[str, float]:
        return {}

    def end(self, folder: Path) -> None:
        self._require(False)

    def give_up(self) -> None:
        self._require(False)

    def _require(self, gradient: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(gradient)


@dataclass
class _TrainedAdapters:
    model: Model
    adapters: Adapters
    merge: bool

    @property
    def module(self) -> nn.Module:
        return self.adapters.peft

    @property
    def sites(self) -> Sequence[Site]:
        return self.adapters.sites

    def plain(self) -> AbstractContextManager[object]:
        return self.adapters.merged()

    def numbers(self) -> Mapping[str, float]:
        return {
            f"lora/{_NORMS[what]}/{site}": norm
            for what, norms in self.adapters.norms().items()
            for site, norm in norms.items()
        }

    def end(self, folder: Path) -> None:
        if self.merge:
            self.adapters.merge()
            return
        self.adapters.save(folder)
        self.adapters.detach()

    def give_up(self) -> None:
        self.adapters.detach()


def check_in_place(trained: Trained) -> None:
    """Raise a ConfigError if edits between training steps would be lost."""
    if not trained.in_place:
        raise ConfigError(
            "edits between training steps need weights that are trained in place: choose a training "
            "intervention without adapters, such as cpt or fft"
        )

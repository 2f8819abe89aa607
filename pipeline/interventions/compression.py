"""What is done to a model before it is served: weights rounded to few bits, or the smallest removed."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editors.errors import ConfigError
from editors.models.model import Model
from editors.updates import at_least_float32, sites_of
from pipeline.data.factset import FactSet
from pipeline.interventions.base import Change, Intervention, Part, Plan, StepObserver


@dataclass(frozen=True, kw_only=True)
class Compression(Intervention):
    """Changes every matrix of every block in a single step; embeddings, norms and biases stay."""

    name: str

    @abstractmethod
    def compressed(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The matrix that takes the place of another."""

    def plan(self, facts: FactSet) -> Plan:
        """All facts are left alone."""
        return Plan(untouched=facts.facts)

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Measure, change all matrices, measure again."""
        sites = sites_of(range(model.depth), model.sites)
        part = Part(name=self.name, unit="steps", total=1, edited=sites)
        if not observer.look(model, part):
            return
        for site in sites:
            model.write(site, self.compressed(at_least_float32(model.current(site))))
        observer.look(model, part, Change(steps=1))


@dataclass(frozen=True, kw_only=True)
class Quantization(Compression):
    """Symmetric rounding of groups of a row: w → s round(w / s), s = max |w| / (2^(bits − 1) − 1).

    Round-to-nearest without calibration; the model computes with the rounded weights in its own precision.
    """

    bits: int = 8
    group: int | None = None
    """Neighbouring inputs that share a scale; null is a whole row."""
    name: str = "quantization"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ConfigError(f"intervention.bits={self.bits}, but it has to be between 2 and 16")
        if self.group is not None and self.group < 1:
            raise ConfigError(
                f"intervention.group={self.group}, but it has to be positive; null is a whole row"
            )

    def compressed(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The rounded matrix.

        Raises:
            ConfigError: if the groups do not divide its inputs.
        """
        width = weight.shape[1] if self.group is None else self.group
        if weight.shape[1] % width:
            raise ConfigError(
                f"intervention.group={width} does not divide the {weight.shape[1]} inputs of a matrix"
            )
        groups = weight.view(len(weight), -1, width)
        largest = groups.abs().amax(dim=2, keepdim=True)
        scale = torch.where(largest > 0, largest, 1.0) / (2 ** (self.bits - 1) - 1)
        return ((groups / scale).round() * scale).view(weight.shape)


@dataclass(frozen=True, kw_only=True)
class Pruning(Compression):
    """The entries of each matrix with the smallest |w| become 0 (magnitude pruning)."""

    share: float = 0.3
    """Share of the entries that is removed."""
    name: str = "pruning"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"intervention.share={self.share}, but it has to lie between 0 and 1")

    def compressed(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The matrix without them; entries as large as the largest that is removed stay."""
        sizes = weight.abs().flatten()
        least = sizes.kthvalue(1 + round(self.share * (len(sizes) - 1))).values
        return weight.where(weight.abs() >= least, 0.0)

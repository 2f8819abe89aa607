"""An edit as changes of named weights, stored as thin factors if they are thin.

A rank-100 change of a 4096×14336 matrix is 7 MB as factors and 235 MB as a matrix; its norm and its
inner product with the weight come from the factors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Site(NamedTuple):
    """A named matrix of one block, for example `mlp_down` of block 5."""

    name: str
    layer: int

    def __str__(self) -> str:
        """As in metric keys: `mlp_down.05`."""
        return f"{self.name}.{self.layer:02d}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """The inverse of `str`."""
        name, layer = text.rsplit(".", 1)
        return cls(name, int(layer))


def sites_of(layers: Iterable[int], names: Sequence[str]) -> list[Site]:
    """The matrices of these names in every one of the blocks, lowest block first."""
    return [Site(name, layer) for layer in sorted(layers) for name in names]


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Change of one weight: Δ = left rightᵀ, or `left` itself if `right` is None."""

    left: Float[Tensor, "out rank"]
    right: Float[Tensor, "in rank"] | None = None
    dtype: torch.dtype | None = None
    """Precision to which the change is rounded before it is added; None keeps that of the factors.

    The published MEMIT code rounds to float32 although it solves in float64.
    """

    def dense(self) -> Float[Tensor, "out in"]:
        """Δ as one matrix, rounded to `dtype`."""
        matrix = self.left if self.right is None else self.left @ self.right.T
        return matrix if self.dtype is None else matrix.to(self.dtype)

    def to(self, device: torch.device) -> "Delta":
        """The same change on a device, in the same layout."""
        right = None if self.right is None else self.right.to(device)
        return replace(self, left=self.left.to(device), right=right)

    def scaled(self, factor: float) -> "Delta":
        """The change times a number, in the same layout."""
        return replace(self, left=factor * self.left)

    def square(self) -> float:
        """‖Δ‖²_F, in float64; from thin factors it is ⟨leftᵀ left, rightᵀ right⟩."""
        left = self.left.double()
        if self.right is None:
            return float((left * left).sum())
        right = self.right.double()
        if not _are_thin(left, right, left.shape[1]):
            matrix = left @ right.T
            return float((matrix * matrix).sum())
        return float(((left.T @ left) * (right.T @ right)).sum())

    def norm(self) -> float:
        """‖Δ‖_F."""
        return max(self.square(), 0.0) ** 0.5

    def inner(self, weight: Float[Tensor, "out in"]) -> float:
        """⟨W, Δ⟩; from the factors it is ⟨W right, left⟩, in float64."""
        projected = weight.double() if self.right is None else weight.double() @ self.right.double()
        return float((projected * self.left.double()).sum())

    def dot(self, other: "Delta") -> float:
        """⟨Δ, Δ'⟩, in float64; from two pairs of thin factors it is ⟨leftᵀ left', rightᵀ right'⟩."""
        if other.right is None:
            return self.inner(other.left)
        if self.right is None:
            return other.inner(self.left)
        if not _are_thin(self.left, self.right, other.left.shape[1]):
            return self.inner(other.left.double() @ other.right.double().T)
        left, right = self.left.double().T @ other.left.double(), self.right.double().T @ other.right.double()
        return float((left * right).sum())

    def is_finite(self) -> bool:
        """Whether no entry is NaN or infinite."""
        parts = [self.left] if self.right is None else [self.left, self.right]
        return all(bool(part.isfinite().all()) for part in parts)


def _are_thin(left: Tensor, right: Tensor, rank: int) -> bool:
    """Whether products of factors with others of some rank are smaller than the matrix is."""
    return left.shape[1] * rank <= left.shape[0] * right.shape[0]


WeightUpdate = Mapping[Site, Delta]
"""All changes that one edit makes."""


def factors(update: WeightUpdate) -> dict[str, Tensor]:
    """The tensors of an update by name: `<site>.left` and, for a change of two factors, `<site>.right`."""
    tensors = {f"{site}.left": delta.left for site, delta in update.items()}
    tensors |= {f"{site}.right": delta.right for site, delta in update.items() if delta.right is not None}
    return {name: plain(tensor) for name, tensor in tensors.items()}


def at_least_float32(weight: Tensor) -> Tensor:
    """The weight in at least float32, in which differences of half precision are exact."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def plain(tensor: Tensor) -> Tensor:
    """The same numbers, laid out in memory as if read from a file; the layout affects last bits of products.

    A matrix with a single column counts as contiguous whatever its strides are.
    """
    return tensor.contiguous().reshape(-1).reshape(tensor.shape)


def from_factors(tensors: Mapping[str, Tensor]) -> dict[Site, Delta]:
    """The inverse of `factors`; the precision of the changes (`dtype`) is not restored."""
    names = sorted(name.removesuffix(".left") for name in tensors if name.endswith(".left"))
    return {
        Site.parse(name): Delta(left=tensors[f"{name}.left"], right=tensors.get(f"{name}.right"))
        for name in names
    }

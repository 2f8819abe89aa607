"""The hypernetwork of MEND: it maps the inputs of a matrix and the gradients of its outputs to an update.

For one matrix and every token, x is its input and δ the gradient of the loss by its output; both are
standardised by running mean and deviation, coordinate by coordinate. A residual network of two layers acts
on y = [x; δ] (`combine`), or one on x and another on δ; a layer is
  y ← y + max(scale ⊙ (U V y + bias) + shift, 0),
with U (wide, rank) zero and V (rank, wide) Gaussian at the beginning. From its outputs x̃ and δ̃,
  Δ = α Σ δ̃ x̃ᵀ over tokens,
with a learned step size α for each matrix. Matrices of equal shape share a network (`shared`) and then have a
scale and a shift of their own.

Source: Mitchell et al. 2022 (arXiv 2110.11309) and eric-mitchell/mend `algs/mend.py`, `nn.py`. As there, the
maximum is a clamp, whose gradient at 0 is 1, the second layer has it too, and α is added, not subtracted.
Deviation: means and deviations are kept in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from editors.errors import ConfigError
from editors.models.gradients import TokenGradients
from editors.moments.running import RunningStatistics
from editors.updates import Delta, Site

EPSILON = 1e-7
"""Added to a deviation before dividing by it, as published."""
LAYERS = 2

Shapes = Mapping[Site, tuple[int, int]]
"""(in, out) of every edited matrix, in the order in which step sizes, scales and shifts are kept."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """The shape of a hypernetwork, apart from the matrices that it is for."""

    rank: int = 1920
    """Rank of U and V; it is capped at the width."""
    shared: bool = True
    """Whether matrices of equal shape share a network."""
    combine: bool = True
    """Whether one network reads [x; δ]; otherwise one reads x and another δ."""
    step_size: float = 1e-4
    """α of every matrix before training."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"editor.rank={self.rank}, but it has to be at least 1")


class LowRankLayer(nn.Module):
    """y + max(scale ⊙ (U V y + bias) + shift, 0), with a scale and a shift for each member of a group."""

    def __init__(self, wide: int, rank: int, members: int | None, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, wide)
        self.u = nn.Parameter(torch.zeros(wide, rank))
        self.v = nn.Parameter(torch.randn(rank, wide, generator=generator))
        self.bias = nn.Parameter(torch.zeros(wide))
        self.scale = None if members is None else nn.Parameter(torch.ones(members, wide))
        self.shift = None if members is None else nn.Parameter(torch.zeros(members, wide))

    def forward(self, y: Float[Tensor, "token wide"], member: int) -> Float[Tensor, "token wide"]:
        """The layer's output for one member of the group."""
        change = y @ self.v.T @ self.u.T + self.bias
        if self.scale is not None and self.shift is not None:
            change = change * self.scale[member] + self.shift[member]
        return y + change.clamp(min=0)  # not relu: all is 0 at first, and relu has no gradient there


class GradientTransform(nn.Module):
    """Running statistics and networks of one group of matrices of equal shape, or of one matrix."""

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(
        self, shape: tuple[int, int], members: int | None, design: Design, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shape = shape
        for name, size in (("count", ()), ("mean", (sum(shape),)), ("square", (sum(shape),))):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))
        self.parts = nn.ModuleList(
            nn.ModuleList(LowRankLayer(wide, design.rank, members, generator) for _ in range(LAYERS))
            for wide in ([sum(shape)] if design.combine else shape)
        )

    @torch.no_grad()
    def observe(self, gradients: TokenGradients) -> None:
        """Update the running statistics with these tokens."""
        merged = self._statistics().merged(RunningStatistics.of(_features(gradients)))
        self.count, self.mean, self.square = merged.count, merged.mean, merged.square

    def forward(self, gradients: TokenGradients, member: int) -> TokenGradients:
        """x̃ and δ̃ of every token."""
        features = self._statistics().standardised(_features(gradients), EPSILON).float()
        inputs = features.split(features.shape[1] if len(self.parts) == 1 else self.shape, dim=1)
        outputs = []
        for y, layers in zip(inputs, self.parts, strict=True):
            for layer in cast(nn.ModuleList, layers):
                y = layer(y, member)
            outputs.append(y)
        return TokenGradients(*torch.cat(outputs, dim=1).split(self.shape, dim=1))

    def _statistics(self) -> RunningStatistics:
        return RunningStatistics(self.count, self.mean, self.square)


class Hypernetwork(nn.Module):
    """Networks of all groups, and a step size for each matrix; training mode also updates the statistics."""

    def __init__(self, shapes: Shapes, design: Design, seed: int = 0) -> None:
        super().__init__()
        self.shapes, self.design = dict(shapes), design
        generator = torch.Generator().manual_seed(seed)
        self.groups = nn.ModuleDict()
        for group, members in self.members().items():
            count = len(members) if design.shared else None
            self.groups[group] = GradientTransform(self.shapes[members[0]], count, design, generator)
        self.step_sizes = nn.Parameter(torch.full((len(self.shapes),), design.step_size))

    def members(self) -> dict[str, list[Site]]:
        """The matrices of each group, in order."""
        groups: dict[str, list[Site]] = {}
        for site in self.shapes:
            groups.setdefault(self._group(site), []).append(site)
        return groups

    def networks(self) -> list[nn.Parameter]:
        """Every parameter but the step sizes."""
        return list(self.groups.parameters())

    def observe(self, gradients: Mapping[Site, TokenGradients]) -> None:
        """Update the running statistics with the tokens of one pass."""
        for site, matrix in gradients.items():
            tokens = nonzero_tokens(matrix)
            if len(tokens.keys):
                self._transform(site).observe(tokens)

    def update(self, gradients: Mapping[Site, TokenGradients]) -> dict[Site, Delta]:
        """The update of every matrix, differentiable by the parameters; as factors if there are few tokens.

        Tokens whose x or δ is zero throughout are left out: standardised, they would no longer be zero.
        """
        if self.training:
            self.observe(gradients)
        members = self.members()
        update = {}
        for site, step_size in zip(self.shapes, self.step_sizes, strict=True):
            member = members[self._group(site)].index(site)
            transformed = self._transform(site)(nonzero_tokens(gradients[site]), member)
            left, right = step_size * transformed.outputs.T, transformed.keys.T
            thin = right.shape[1] < min(self.shapes[site])
            update[site] = Delta(left=left, right=right) if thin else Delta(left=left @ right.T)
        return update

    def _group(self, site: Site) -> str:
        """The name of the matrix's group, without dots because it names a module."""
        wide, out = self.shapes[site]
        return f"{wide}x{out}" if self.design.shared else str(site).replace(".", "_")

    def _transform(self, site: Site) -> GradientTransform:
        return cast(GradientTransform, self.groups[self._group(site)])


def nonzero_tokens(gradients: TokenGradients) -> TokenGradients:
    """The tokens at which neither x nor δ is zero throughout."""
    rows = gradients.keys.any(dim=1) & gradients.outputs.any(dim=1)
    return TokenGradients(gradients.keys[rows], gradients.outputs[rows])


def _features(gradients: TokenGradients) -> Float[Tensor, "token both"]:
    return gradients.features().double()

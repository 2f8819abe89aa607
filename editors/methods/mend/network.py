"""The hypernetwork of MEND: from what a matrix read and how the loss pulls at it to a better update.

For one matrix and every token, x is its input and δ the gradient of the loss by its output; both are
standardised by running mean and deviation, coordinate by coordinate. A residual network of two layers acts
on y = [x; δ] (`combine`), or one on x and another on δ; a layer is
  y ← y + max(scale ⊙ (U V y + bias) + shift, 0),
with U (wide, rank) zero and V (rank, wide) Gaussian at the beginning. What comes out, x̃ and δ̃, gives
  Δ = α Σ δ̃ x̃ᵀ over tokens,
α being a learned number of the matrix. Matrices of equal shape share a network (`shared`) and then have a
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
from editors.models.gradients import Pull
from editors.moments.running import Statistics
from editors.updates import Delta, Site

EPSILON = 1e-7
"""Added to a deviation before dividing by it, as published."""
LAYERS = 2

Shapes = Mapping[Site, tuple[int, int]]
"""(in, out) of every edited matrix, in the order in which step sizes, scales and shifts are kept."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """What hypernetworks can differ in, beside the matrices that they are for."""

    rank: int = 1920
    """Of U and V, at most the width."""
    shared: bool = True
    """Whether matrices of equal shape share a network."""
    combine: bool = True
    """Whether one network reads [x; δ], or one reads x and another δ."""
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
        """What follows y for a member of the group."""
        change = y @ self.v.T @ self.u.T + self.bias
        if self.scale is not None and self.shift is not None:
            change = change * self.scale[member] + self.shift[member]
        return y + change.clamp(min=0)  # not relu: all is 0 at first, and relu has no gradient there


class Transform(nn.Module):
    """Statistics and networks of one group of matrices of equal shape, or of one matrix."""

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
    def observe(self, pull: Pull) -> None:
        """Count the tokens in."""
        seen = Statistics(self.count, self.mean, self.square).with_rows_of(Statistics.of(_features(pull)))
        self.count, self.mean, self.square = seen.count, seen.mean, seen.square

    def forward(self, pull: Pull, member: int) -> Pull:
        """x̃ and δ̃ of every token."""
        known = Statistics(self.count, self.mean, self.square)
        given = known.standardised(_features(pull), EPSILON).float()
        parts = given.split(given.shape[1] if len(self.parts) == 1 else self.shape, dim=1)
        made = []
        for y, layers in zip(parts, self.parts, strict=True):
            for layer in cast(nn.ModuleList, layers):
                y = layer(y, member)
            made.append(y)
        return Pull(*torch.cat(made, dim=1).split(self.shape, dim=1))


class Hypernetwork(nn.Module):
    """Networks of all groups, and a step size for each matrix; in training it also learns the statistics."""

    def __init__(self, shapes: Shapes, design: Design, seed: int = 0) -> None:
        super().__init__()
        self.shapes, self.design = dict(shapes), design
        generator = torch.Generator().manual_seed(seed)
        self.groups = nn.ModuleDict()
        for group, members in self.members().items():
            count = len(members) if design.shared else None
            self.groups[group] = Transform(self.shapes[members[0]], count, design, generator)
        self.step_sizes = nn.Parameter(torch.full((len(self.shapes),), design.step_size))

    def members(self) -> dict[str, list[Site]]:
        """The matrices of each group, in order."""
        found: dict[str, list[Site]] = {}
        for site in self.shapes:
            found.setdefault(self._group(site), []).append(site)
        return found

    def networks(self) -> list[nn.Parameter]:
        """Every parameter but the step sizes."""
        return list(self.groups.parameters())

    def observe(self, pulls: Mapping[Site, Pull]) -> None:
        """Count the tokens of one pass in."""
        for site, pull in pulls.items():
            moved = moving(pull)
            if len(moved.keys):
                self._transform(site).observe(moved)

    def update(self, pulls: Mapping[Site, Pull]) -> dict[Site, Delta]:
        """The update of every matrix, differentiable by the parameters; factors where tokens are few.

        Tokens whose x or δ is zero throughout are left out: standardised, they would not be zero any more.
        """
        if self.training:
            self.observe(pulls)
        members = self.members()
        update = {}
        for site, step_size in zip(self.shapes, self.step_sizes, strict=True):
            place = members[self._group(site)].index(site)
            made = self._transform(site)(moving(pulls[site]), place)
            left, right = step_size * made.gradients.T, made.keys.T
            thin = right.shape[1] < min(self.shapes[site])
            update[site] = Delta(left=left, right=right) if thin else Delta(left=left @ right.T)
        return update

    def _group(self, site: Site) -> str:
        """Matrices of equal shape are one group where they share; a module's name holds no dot."""
        wide, out = self.shapes[site]
        return f"{wide}x{out}" if self.design.shared else str(site).replace(".", "_")

    def _transform(self, site: Site) -> Transform:
        return cast(Transform, self.groups[self._group(site)])


def moving(pull: Pull) -> Pull:
    """The tokens at which neither x nor δ is zero throughout."""
    rows = pull.keys.any(dim=1) & pull.gradients.any(dim=1)
    return Pull(pull.keys[rows], pull.gradients[rows])


def _features(pull: Pull) -> Float[Tensor, "token both"]:
    return torch.cat([pull.keys, pull.gradients], dim=1).double()

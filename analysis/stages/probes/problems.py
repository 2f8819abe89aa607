"""The logistic regressions that a batch of pairs asks for: their data, gradients and a metric they share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import pad

from analysis.stages.probes.classifiers import Pair, Products, labels_of
from editors.errors import NumericsError

_ROWS_A_COLUMN = 2
"""Samples that the common correlation matrix is estimated from, for each of its columns."""
_RIDGE = 0.3
"""Of the metric. Without one, directions of little variance would be followed first, of which the tolerance
asks nothing; with a large one L-BFGS starts as if features were uncorrelated. 0.1 to 1 take equally long."""


def usable(layers: Float[Tensor, "layer sample width"]) -> Bool[Tensor, " layer"]:
    """Which layers have activations whose squares can be summed; the others hold NaN, or overflow."""
    largest = layers.abs().amax(dim=(1, 2)).double()  # NaN where one is
    return largest**2 * layers.shape[1] * 4 < torch.finfo(layers.dtype).max


@dataclass(frozen=True)
class Moments:
    """Mean and variance of every column of every layer, held in float64."""

    mean: Float[Tensor, "layer width"]
    variance: Float[Tensor, "layer width"]

    @staticmethod
    def of(layers: Float[Tensor, "layer sample width"]) -> "Moments":
        """Those of all layers; raises NumericsError where one is not finite."""
        mean = layers.mean(dim=1)
        # ten times as fast as `torch.var_mean`, and never a difference of large squares
        parts = [(layer - centre).square_().mean(dim=0) for layer, centre in zip(layers, mean, strict=True)]
        variance = torch.stack(parts)
        if not bool(variance.isfinite().all()):
            raise NumericsError(
                "the activations hold NaN or infinity, so that no probe can be fitted to them"
            )
        return Moments(mean.double(), variance.double())


@dataclass(frozen=True)
class Problems:
    """What the regressions of a batch are given. A point is w and, as its last entry, c."""

    products: Products
    mean: Float[Tensor, "problem width"]
    inverse: Float[Tensor, "problem width"]
    """1 / σ, and 0 for a column that is constant."""
    labels: Float[Tensor, "problem sample"]
    """1 for what counts as the second layer; the samples of both sides one after another."""
    penalty: float
    """1 / (C N)."""
    gap: Float[Tensor, "problem width"] | None = None
    """Half the difference of the layers' means in units of σ, where the labels are the layers."""

    def unstandardised(
        self, point: Float[Tensor, "problem entry"]
    ) -> tuple[Float[Tensor, "problem width"], Float[Tensor, " problem"]]:
        """Weights and intercepts for activations as they are."""
        weights = point[:, :-1] * self.inverse
        return weights, point[:, -1] - vecdot(weights, self.mean)

    def scores(self, point: Float[Tensor, "problem entry"]) -> Float[Tensor, "problem sample"]:
        """s of every sample."""
        weights, intercepts = self.unstandardised(point)
        return self.products.forward(weights).flatten(1).add_(intercepts[:, None])

    def gradient(
        self, point: Float[Tensor, "problem entry"], scores: Float[Tensor, "problem sample"]
    ) -> Float[Tensor, "problem entry"]:
        """∂F/∂(w, c)."""
        residual = scores.sigmoid().sub_(self.labels).div_(scores.shape[1])
        total = residual.sum(dim=1, keepdim=True)
        pulled = self.products.back(residual.unflatten(1, (2, -1)))
        slope = (pulled - total * self.mean) * self.inverse + self.penalty * point[:, :-1]
        return torch.cat([slope, total], dim=1)

    def start(self, point: Float[Tensor, "problem entry"]) -> Float[Tensor, "problem entry"]:
        """∂F/∂(w, c) where both are 0: −gap / 2 and 0 where the labels are the layers, without a product."""
        if self.gap is None:
            return self.gradient(point, torch.zeros_like(self.labels))
        return pad(self.gap / -2, (0, 1))

    def keep(self, which: Bool[Tensor, " problem"]) -> "Problems":
        """These alone."""
        products = Products(self.products.layers, self.products.pairs[which])
        return Problems(products, self.mean[which], self.inverse[which], self.labels[which], self.penalty)


def problems_of(
    layers: Float[Tensor, "layer sample width"],
    moments: Moments,
    pairs: Sequence[Pair],
    labels: Bool[Tensor, "problem side sample"] | None,
    penalty: float,
) -> Problems:
    """The variance of two equally large samples together is the mean of theirs and that of their means."""
    index = torch.tensor(pairs)
    first, second = moments.mean[index].unbind(dim=1)
    mean, gap = (first + second) / 2, (second - first) / 2
    variance = moments.variance[index].mean(dim=1) + gap.square()
    # the variance of a constant column is a rounding error
    constant = variance <= (torch.finfo(layers.dtype).eps * mean).square()
    inverse = variance.rsqrt().masked_fill(constant, 0)
    targets = (labels_of(layers, pairs) if labels is None else labels).flatten(1)
    return Problems(
        products=Products(layers, index),
        mean=mean.to(layers),
        inverse=inverse.to(layers),
        labels=targets.to(layers),
        penalty=penalty,
        gap=(gap * inverse).to(layers) if labels is None else None,
    )


def common_metric(
    layers: Float[Tensor, "layer sample width"], moments: Moments
) -> Float[Tensor, "entry entry"]:
    """(R / 4 + ρ I)⁻¹, and 4 for c: with ρ = 1 / (C N), the inverse Hessian at w = 0 of equal layers.

    R is the mean over the layers of the correlation matrix of the columns, from evenly spaced samples.
    """
    depth, samples, width = layers.shape
    every = max(1, depth * samples // (_ROWS_A_COLUMN * width))
    inverse = moments.variance.clamp(min=torch.finfo(layers.dtype).tiny).rsqrt()
    common = torch.zeros(width, width, dtype=layers.dtype)
    for layer, mean, factor in zip(layers, moments.mean.to(layers), inverse.to(layers), strict=True):
        rows = (layer[::every] - mean) * factor
        common.addmm_(rows.T, rows, alpha=0.25 / (depth * len(rows)))
    common.diagonal().add_(_RIDGE)
    metric = pad(torch.cholesky_inverse(torch.linalg.cholesky(common)), (0, 1, 0, 1))
    metric[-1, -1] = 4
    return metric

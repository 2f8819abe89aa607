"""The logistic regressions of a batch of pairs: data, gradients and the metric that they share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import pad

from analysis.stages.probes.classifiers import LayerPair, Products, layer_labels
from editors.errors import NumericsError

_ROWS_A_COLUMN = 2
"""Samples per column from which the common correlation matrix is estimated."""
_RIDGE = 0.3
"""Ridge of the metric. Without it, L-BFGS would first follow directions of little variance, which do not
matter for the tolerance; with a large one it starts as if features were uncorrelated. 0.1 to 1 take equally
long."""


def has_finite_squares(layers: Float[Tensor, "layer sample width"]) -> Bool[Tensor, " layer"]:
    """Whether the squares of a layer's activations can be summed; otherwise it holds NaN, or overflows."""
    largest = layers.abs().amax(dim=(1, 2)).double()  # NaN if the layer holds one
    return largest**2 * layers.shape[1] * 4 < torch.finfo(layers.dtype).max


@dataclass(frozen=True)
class Moments:
    """Mean and variance of every column of every layer, held in float64."""

    mean: Float[Tensor, "layer width"]
    variance: Float[Tensor, "layer width"]

    @staticmethod
    def of(layers: Float[Tensor, "layer sample width"]) -> "Moments":
        """The moments of all layers; raises NumericsError if one is not finite."""
        mean = layers.mean(dim=1)
        # ten times as fast as `torch.var_mean`, and never a difference of large squares
        parts = [(layer - centre).square_().mean(dim=0) for layer, centre in zip(layers, mean, strict=True)]
        variance = torch.stack(parts)
        if not bool(variance.isfinite().all()):
            raise NumericsError("the activations hold NaN or infinity, so no probe can be fitted to them")
        return Moments(mean.double(), variance.double())


@dataclass(frozen=True)
class Problems:
    """The data of the regressions of a batch. A point is w and, as its last entry, c."""

    products: Products
    mean: Float[Tensor, "problem width"]
    inverse: Float[Tensor, "problem width"]
    """1 / σ, or 1 for raw features; 0 for a constant column."""
    labels: Float[Tensor, "problem sample"]
    """1 for samples that count as the second layer's; the samples of both sides one after another."""
    penalty: float
    """1 / (C N)."""
    gap: Float[Tensor, "problem width"] | None = None
    """Half the difference of the layers' means times `inverse`; None if the labels are not the layers."""

    def unstandardised(
        self, point: Float[Tensor, "problem entry"]
    ) -> tuple[Float[Tensor, "problem width"], Float[Tensor, " problem"]]:
        """Weights and intercepts for raw activations."""
        weights = point[:, :-1] * self.inverse
        return weights, point[:, -1] - vecdot(weights, self.mean)

    def scores(self, point: Float[Tensor, "problem entry"]) -> Float[Tensor, "problem sample"]:
        """The scores s of every sample."""
        weights, intercepts = self.unstandardised(point)
        return self.products.forward(weights).flatten(1).add_(intercepts[:, None])

    def gradient(
        self, point: Float[Tensor, "problem entry"], scores: Float[Tensor, "problem sample"]
    ) -> Float[Tensor, "problem entry"]:
        """∂F/∂(w, c)."""
        residual = scores.sigmoid().sub_(self.labels).div_(scores.shape[1])
        total = residual.sum(dim=1, keepdim=True)
        raw = self.products.back(residual.unflatten(1, (2, -1)))
        slope = (raw - total * self.mean) * self.inverse + self.penalty * point[:, :-1]
        return torch.cat([slope, total], dim=1)

    def start(self, point: Float[Tensor, "problem entry"]) -> Float[Tensor, "problem entry"]:
        """∂F/∂(w, c) at w = 0, c = 0: (−gap / 2, 0) if the labels are the layers, which takes no product."""
        if self.gap is None:
            return self.gradient(point, torch.zeros_like(self.labels))
        return pad(self.gap / -2, (0, 1))

    def select(self, mask: Bool[Tensor, " problem"]) -> "Problems":
        """The problems of a mask alone."""
        products = Products(self.products.layers, self.products.pairs[mask])
        return Problems(products, self.mean[mask], self.inverse[mask], self.labels[mask], self.penalty)


def make_problems(
    layers: Float[Tensor, "layer sample width"],
    moments: Moments,
    pairs: Sequence[LayerPair],
    labels: Bool[Tensor, "problem side sample"] | None,
    penalty: float,
    *,
    standardise: bool = True,
) -> Problems:
    """The problems of some pairs, from the moments of their layers; features are divided by σ or left raw.

    The variance of two equally large samples together is the mean of their variances plus the variance of
    their means.
    """
    index = torch.tensor(pairs)
    first, second = moments.mean[index].unbind(dim=1)
    mean, gap = (first + second) / 2, (second - first) / 2
    variance = moments.variance[index].mean(dim=1) + gap.square()
    # the variance of a constant column is a rounding error
    constant = variance <= (torch.finfo(layers.dtype).eps * mean).square()
    scale = variance.rsqrt() if standardise else torch.ones_like(variance)
    inverse = scale.masked_fill(constant, 0)
    targets = (layer_labels(layers, pairs) if labels is None else labels).flatten(1)
    return Problems(
        products=Products(layers, index),
        mean=mean.to(layers),
        inverse=inverse.to(layers),
        labels=targets.to(layers),
        penalty=penalty,
        gap=(gap * inverse).to(layers) if labels is None else None,
    )


def common_metric(
    layers: Float[Tensor, "layer sample width"],
    moments: Moments,
    penalty: float,
    *,
    standardise: bool = True,
) -> Float[Tensor, "entry entry"]:
    """(R / 4 + ρ I)⁻¹, and 4 for c: with ρ = 1 / (C N) the inverse Hessian at w = 0 of equal layers.

    R is the mean over the layers of the correlation matrix of the columns, from evenly spaced samples. For
    raw features it is that of the covariance matrix, and the ridge of a column is in units of its variance.
    """
    depth, samples, width = layers.shape
    every = max(1, depth * samples // (_ROWS_A_COLUMN * width))
    if standardise:
        factors = moments.variance.clamp(min=torch.finfo(layers.dtype).tiny).rsqrt()
        ridge = torch.full_like(factors[0], _RIDGE)
    else:
        factors = torch.ones_like(moments.variance)
        ridge = _RIDGE * moments.variance.mean(dim=0) + penalty
    common = torch.zeros(width, width, dtype=layers.dtype)
    for layer, mean, factor in zip(layers, moments.mean.to(layers), factors.to(layers), strict=True):
        rows = (layer[::every] - mean) * factor
        common.addmm_(rows.T, rows, alpha=0.25 / (depth * len(rows)))
    common.diagonal().add_(ridge.to(layers))
    metric = pad(torch.cholesky_inverse(torch.linalg.cholesky(common)), (0, 1, 0, 1))
    metric[-1, -1] = 4
    return metric

"""Linear classifiers that tell the samples of two layers apart, and the protocol of their solvers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

log = logging.getLogger(__name__)

LayerPair = tuple[int, int]
"""Two layers; a classifier is positive for samples of the second."""


class Products:
    """Products of activations with one vector per problem; a layer is read once for all its problems."""

    def __init__(self, layers: Float[Tensor, "layer sample width"], pairs: Int[Tensor, "problem 2"]) -> None:
        self.layers, self.pairs = layers, pairs
        flat = pairs.flatten()  # two sides per problem, one after another
        self._sides = [(layer, (flat == layer).nonzero()[:, 0]) for layer in flat.unique().tolist()]

    def forward(self, weights: Float[Tensor, "problem width"]) -> Float[Tensor, "problem side sample"]:
        """w · x for the samples of both layers of each problem."""
        scores = weights.new_empty(2 * len(weights), self.layers.shape[1])
        for layer, sides in self._sides:
            scores[sides] = weights[sides // 2] @ self.layers[layer].T
        return scores.reshape(-1, 2, self.layers.shape[1])

    def back(self, factors: Float[Tensor, "problem side sample"]) -> Float[Tensor, "problem width"]:
        """Σ r x over the samples of both layers of each problem, with factors r."""
        sums = factors.new_zeros(len(factors), self.layers.shape[2])
        flat = factors.flatten(0, 1)
        for layer, sides in self._sides:
            sums.index_add_(0, sides // 2, flat[sides] @ self.layers[layer])
        return sums


@dataclass(frozen=True)
class Classifiers:
    """One classifier per pair: it predicts the second layer if w · x + c > 0."""

    pairs: Sequence[LayerPair]
    weights: Float[Tensor, "problem width"]
    """Weights for raw activations, not for standardised ones."""
    intercepts: Float[Tensor, " problem"]

    def hits(self, layers: Float[Tensor, "layer sample width"]) -> Int[Tensor, "problem sample"]:
        """How many of the two layers of each pair are recognised by a sample: 0, 1 or 2.

        A sample that holds NaN counts as misclassified.
        """
        scores = Products(layers, torch.tensor(self.pairs)).forward(self.weights.to(layers))
        first, second = (scores + self.intercepts.to(scores)[:, None, None]).unbind(dim=1)
        return (first <= 0).long() + (second > 0)

    def accuracy(self, layers: Float[Tensor, "layer sample width"]) -> Float[Tensor, " problem"]:
        """Share of the samples of both layers that are classified correctly; equal layers give exactly 0.5.

        A sample that holds NaN counts as misclassified.
        """
        return self.hits(layers).sum(dim=1).double() / (2 * layers.shape[1])


@runtime_checkable
class Solver(Protocol):
    """A way to fit the logistic regressions of many pairs."""

    def fit(
        self,
        layers: Float[Tensor, "layer sample width"],
        pairs: Sequence[LayerPair],
        labels: Bool[Tensor, "problem side sample"] | None = None,
    ) -> Classifiers:
        """One classifier per pair; `labels` are true for samples that count as the second layer's."""
        ...


def layer_labels(
    layers: Float[Tensor, "layer sample width"], pairs: Sequence[LayerPair]
) -> Bool[Tensor, "problem side sample"]:
    """True for the samples of the second layer."""
    labels = torch.zeros(len(pairs), 2, layers.shape[1], dtype=torch.bool)
    labels[:, 1] = True
    return labels


def warn_unconverged(unconverged: int, problems: int, iterations: int) -> None:
    """Warn how many regressions stopped before they had converged, if any did."""
    if unconverged:
        log.warning(
            "%d of %d logistic regressions have not converged after %d iterations",
            *(unconverged, problems, iterations),
        )

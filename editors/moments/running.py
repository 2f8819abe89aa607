"""Count, mean and deviation of rows, updated batch by batch, and their last coordinates' covariance."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 1e-6
"""Variance that a direction has at least when it is whitened, as in StableEdit's code."""


@dataclass(frozen=True)
class RunningStatistics:
    """Count, mean and summed squared deviation of all rows so far, coordinate by coordinate.

    With `products` also the summed products of the deviations of the last coordinates.
    """

    count: Float[Tensor, ""]
    mean: Float[Tensor, " wide"]
    square: Float[Tensor, " wide"]
    products: Float[Tensor, "last last"] | None = None

    @classmethod
    def of(cls, rows: Float[Tensor, "row wide"], last: int = 0) -> "RunningStatistics":
        """The statistics of these rows alone, with products of the `last` coordinates."""
        mean = rows.mean(dim=0)
        count = torch.tensor(float(len(rows)), dtype=rows.dtype, device=rows.device)
        deviations = rows - mean
        products = deviations[:, -last:].T @ deviations[:, -last:] if last else None
        return cls(count, mean, (deviations**2).sum(dim=0), products)

    def on(self, device: torch.device) -> "RunningStatistics":
        """The same statistics on a device."""
        products = None if self.products is None else self.products.to(device)
        return RunningStatistics(
            self.count.to(device), self.mean.to(device), self.square.to(device), products
        )

    def merged(self, other: "RunningStatistics") -> "RunningStatistics":
        """The statistics of both sets of rows together (Chan et al. 1983)."""
        count, gap = self.count + other.count, other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        between = self.count * other.count / count
        square = self.square + other.square + gap**2 * between
        if self.products is None or other.products is None:
            return RunningStatistics(count, mean, square)
        last = gap[-len(self.products) :]
        products = self.products + other.products + torch.outer(last, last) * between
        return RunningStatistics(count, mean, square, products)

    def standardised(self, rows: Float[Tensor, "row wide"], epsilon: float) -> Float[Tensor, "row wide"]:
        """(x − mean) / (deviation + ε), where deviation² = Σ (x − mean)² / (count − 1)."""
        deviation = (self.square / (self.count - 1).clamp(min=1)).sqrt()
        return (rows - self.mean) / (deviation + epsilon)

    def whitened(self, rows: Float[Tensor, "row wide"], epsilon: float) -> Float[Tensor, "row wide"]:
        """The same, but the last d coordinates are (x − mean) Σ^(−1/2) with Σ = products / (count − d − 1).

        Only once there are more than d + 1 rows; variances below `SMALLEST` count as that.
        """
        standardised = self.standardised(rows, epsilon)
        if self.products is None or self.count <= len(self.products) + 1:
            return standardised
        last = len(self.products)
        values, vectors = torch.linalg.eigh(self.products / (self.count - last - 1))
        root = (vectors * values.clamp(min=SMALLEST).rsqrt()) @ vectors.T
        return torch.cat([standardised[:, :-last], (rows - self.mean)[:, -last:] @ root], dim=1)

"""Count, mean and deviation of rows, updated batch by batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class RunningStatistics:
    """Count, mean and summed squared deviation of all rows so far, coordinate by coordinate."""

    count: Float[Tensor, ""]
    mean: Float[Tensor, " wide"]
    square: Float[Tensor, " wide"]

    @classmethod
    def of(cls, rows: Float[Tensor, "row wide"]) -> "RunningStatistics":
        """The statistics of these rows alone."""
        mean = rows.mean(dim=0)
        count = torch.tensor(float(len(rows)), dtype=rows.dtype, device=rows.device)
        return cls(count, mean, ((rows - mean) ** 2).sum(dim=0))

    def on(self, device: torch.device) -> "RunningStatistics":
        """The same statistics on a device."""
        return RunningStatistics(self.count.to(device), self.mean.to(device), self.square.to(device))

    def merged(self, other: "RunningStatistics") -> "RunningStatistics":
        """The statistics of both sets of rows together (Chan et al. 1983)."""
        count, gap = self.count + other.count, other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        square = self.square + other.square + gap**2 * (self.count * other.count / count)
        return RunningStatistics(count, mean, square)

    def standardised(self, rows: Float[Tensor, "row wide"], epsilon: float) -> Float[Tensor, "row wide"]:
        """(x − mean) / (deviation + ε), where deviation² = Σ (x − mean)² / (count − 1)."""
        deviation = (self.square / (self.count - 1).clamp(min=1)).sqrt()
        return (rows - self.mean) / (deviation + epsilon)

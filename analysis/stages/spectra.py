"""Spectra of the weights: their singular values, dominant subspaces, and how evenly their rows are spread.

A norm says how large a matrix is, not where it grew. With W = U diag(σ) Vᵀ, edits that repeat a direction
push up a few leading σ: the stable rank falls and the condition number rises (analysis of arXiv 2502.01636).
The overlap of the leading directions with the unedited ones shows whether these were replaced (REVIVE, arXiv
2601.11042). And the hyperspherical energy rises if the rows crowd together in a few directions (SPHERE, arXiv
2510.01172). The equation of each measure stands at its function.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.linalg import overlap
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from editors.data import Fact
from editors.models.model import Model
from editors.updates import Site

Which = Literal["all", "edited"]

_ROWS = 1024
"""Rows whose distances to all others are formed at a time."""
_PARALLEL = 1e-14
"""Squared distance on the unit sphere below which two rows point the same way."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a matrix, largest first, and its dominant directions."""

    values: Float[Tensor, " value"]
    left: Float[Tensor, "out rank"]
    right: Float[Tensor, "in rank"]

    @property
    def stable_rank(self) -> float:
        """‖W‖²_F / σ₁²."""
        return float((self.values**2).sum() / self.values[0] ** 2)

    @property
    def condition(self) -> float:
        """σ₁ / σ_min; infinite for a singular matrix."""
        return float(self.values[0] / self.values[-1])

    @property
    def effective_rank(self) -> float:
        """exp(−Σ pᵢ log pᵢ) with pᵢ = σᵢ² / Σσ² (Roy and Vetterli 2007, with energies)."""
        shares = self.values**2 / (self.values**2).sum()
        return float(torch.special.entr(shares).sum().exp())


def spectrum(matrix: Float[Tensor, "out in"], rank: int) -> Spectrum:
    """All singular values and the `rank` dominant directions, in float64.

    From the eigenvectors of the smaller Gram matrix, W Wᵀ or Wᵀ W, which takes a fraction of an SVD's time;
    a singular value has a relative error of about 1e-16 (σ₁ / σ)², far below float32's own if
    σ₁ / σ < 1e4.
    """
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    values = squares.flip(0).clamp(min=0).sqrt()
    near = vectors.flip(1)[:, :rank]
    far = wide.T @ near / values[:rank].clamp(min=torch.finfo(values.dtype).tiny)
    left, right = (near, far) if matrix.shape[0] <= matrix.shape[1] else (far, near)
    return Spectrum(values, left.contiguous(), right.contiguous())


def hyperspherical_energy(matrix: Float[Tensor, "out in"]) -> float:
    """Mean over all pairs of rows of 1 / ‖ŵᵢ − ŵⱼ‖, ŵ scaled to length one; least for evenly spread rows.

    Source: MHE (arXiv 1805.09298) with s = 1, as in SPHERE (arXiv 2510.01172); a mean instead of their sum,
    so that matrices of different height compare. Infinite if two rows point the same way.
    """
    rows = torch.nn.functional.normalize(matrix.double(), dim=1)
    total, count = 0.0, rows.shape[0]
    for start in range(0, count, _ROWS):
        cosines = rows[start : start + _ROWS] @ rows.T
        squares = 2 - 2 * cosines
        # a square of 0 may be a tiny number after rounding
        distances = squares.where(squares > _PARALLEL, 0.0).sqrt()
        distances[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = torch.inf
        total += float(distances.reciprocal().sum())
    return total / (count * (count - 1))


@dataclass(kw_only=True)
class Spectra(Stage):
    """Spectral measures of every matrix; an unchanged matrix is logged at the start only.

    Keys, for each site: `norm/spectral/<site>` σ₁, `norm/singular_1/<site>`, `norm/singular_2/<site>`, …,
    `norm/stable_rank/<site>`, `norm/condition/<site>`, `norm/effective_rank/<site>`,
    `norm/hyperspherical_energy/<site>`, and `norm/subspace_left/<site>`, `norm/subspace_right/<site>`:
    overlap of the `rank` dominant output and input directions with the unedited ones.
    """

    name: str = "spectra"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(1, 10, 100, 1000, 10_000)))
    sites: Which = "all"
    """`edited`: only the matrices that the run edits, for models on which all of them take too long."""
    leading: int = 5
    """Number of singular values with a key of their own."""
    rank: int = 10
    """Number of dominant directions that are compared with the unedited ones."""

    def __post_init__(self) -> None:
        self.check_minimums(leading=1, rank=1)

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Forget the spectra of an earlier run; the unedited weights come with each observation."""
        self._unedited: dict[Site, Spectrum] = {}

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Spectra of all matrices at the start, later of those that changed."""
        reference = observation.reference
        assert reference is not None, "the spectra stage needs the unedited weights"
        result: Measurement = {}
        first = observation.changes == 0
        for site in observation.edited if self.sites == "edited" else reference.weights:
            before, now = reference.weights[site].to(model.device), model.current(site)
            if site not in self._unedited:
                self._unedited[site] = spectrum(before, self.rank)
            untouched = torch.equal(before, now)
            if first or not untouched:
                current = self._unedited[site] if untouched else spectrum(now, self.rank)
                result |= self._spectrum_metrics(site, current)
                result[f"norm/hyperspherical_energy/{site}"] = hyperspherical_energy(now)
        return result

    def _spectrum_metrics(self, site: Site, current: Spectrum) -> Measurement:
        unedited = self._unedited[site]
        result: Measurement = {
            f"norm/spectral/{site}": float(current.values[0]),
            f"norm/stable_rank/{site}": current.stable_rank,
            f"norm/condition/{site}": current.condition,
            f"norm/effective_rank/{site}": current.effective_rank,
            f"norm/subspace_left/{site}": overlap(unedited.left, current.left),
            f"norm/subspace_right/{site}": overlap(unedited.right, current.right),
        }
        for i, value in enumerate(current.values[: self.leading].tolist(), start=1):
            result[f"norm/singular_{i}/{site}"] = value
        return result

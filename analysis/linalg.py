"""Norms, principal subspaces, their angles, and linear CKA."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

SAFE = 1e-12
"""Below it, squares of the entries may vanish in float32."""


def centred(vectors: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """The vectors without their mean, in float64."""
    given = vectors.double()
    return given - given.mean(dim=0)


def principal(vectors: Float[Tensor, "n dim"], rank: int) -> Float[Tensor, "dim rank"]:
    """Orthonormal basis of the `rank` leading principal components of centred vectors.

    From the eigenvectors of the smaller of X Xᵀ and Xᵀ X. Fewer columns where the vectors span less, none
    where one of them is not finite.
    """
    count, width = vectors.shape
    if not bool(vectors.isfinite().all()):
        return vectors.new_empty(width, 0)
    tall = count >= width
    squares, found = torch.linalg.eigh(vectors.T @ vectors if tall else vectors @ vectors.T)
    leading = squares.flip(0)[:rank]
    chosen = found.flip(1)[:, :rank][:, leading > 1e-12 * squares[-1].clamp(min=1e-300)]
    if tall:
        return chosen.contiguous()
    return torch.nn.functional.normalize(vectors.T @ chosen, dim=0)


def cosines(one: Float[Tensor, "dim a"], other: Float[Tensor, "dim b"]) -> Float[Tensor, " angle"]:
    """Cosines of the principal angles between two subspaces given by orthonormal bases, largest first."""
    return torch.linalg.svdvals(one.T @ other).clamp(max=1.0)


def overlap(one: Float[Tensor, "dim a"], other: Float[Tensor, "dim b"]) -> float:
    """‖AᵀB‖²_F / rank, the mean squared cosine of the principal angles: 1 for the same subspace.

    Two random subspaces have rank / dim on average. Of bases of different rank the larger one counts; NaN for
    an empty one.
    """
    if not (one.shape[1] and other.shape[1]):
        return math.nan
    return float((one.T @ other).square().sum()) / max(one.shape[1], other.shape[1])


def largest_angle(one: Float[Tensor, "dim a"], other: Float[Tensor, "dim b"]) -> float:
    """The largest principal angle in degrees, 0 for the same subspace and 90 for one orthogonal direction.

    From the sine where the angle is small: arccos loses half of the digits near 1 (Björck and Golub 1973).
    NaN for an empty basis.
    """
    if not (one.shape[1] and other.shape[1]):
        return math.nan
    sine = float(torch.linalg.matrix_norm(other - one @ (one.T @ other), ord=2))
    cosine = float(cosines(one, other).min())
    return math.degrees(math.asin(min(sine, 1.0)) if cosine > 0.7 else math.acos(cosine))


def linear_cka(one: Float[Tensor, "n a"], other: Float[Tensor, "n b"]) -> float:
    """‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of centred vectors: 1 for equal up to rotation and scale, 0 for unrelated.

    Source: Kornblith et al. 2019 (arXiv 1905.00414). With fewer vectors than dimensions from the n×n Gram
    matrices, tr(XXᵀ YYᵀ) being the same number. NaN where all vectors of a side are the same, or one is not
    finite.
    """
    if len(one) < one.shape[1]:
        left, right = one @ one.T, other @ other.T
        cross = float((left * right).sum())
    else:
        left, right = one.T @ one, other.T @ other
        cross = float((one.T @ other).square().sum())
    scale = float(left.norm() * right.norm())
    return cross / scale if scale > 0 else math.nan


def frobenius(matrices: Iterable[Tensor]) -> list[float]:
    """‖W‖_F of every matrix, the same bits for the same bits in the same layout; relative error below 1e-7.

    Lines of memory are summed as they are, in float32 where that is their precision, and the lines in
    float64: no copy is made. All of it is in float64 for half precision and matrices with gaps, whose sums
    torch forms less carefully, and where float32 overflows or vanishes.
    """
    matrices = list(matrices)
    quick = [_lines(matrix).double().norm() for matrix in matrices]
    if not quick:
        return []
    norms = torch.stack([norm.to(quick[0].device) for norm in quick]).tolist()  # waits for a GPU once
    return [
        norm if SAFE < norm < float("inf") else float(matrix.double().norm())
        for norm, matrix in zip(norms, matrices, strict=True)
    ]


def _lines(matrix: Tensor) -> Tensor:
    """Norms along the side that lies together in memory."""
    along = 1 if matrix.stride(1) == 1 else 0
    careless = torch.finfo(matrix.dtype).bits < 32 or matrix.stride(along) != 1
    return torch.linalg.vector_norm(matrix, dim=along, dtype=torch.float64 if careless else matrix.dtype)

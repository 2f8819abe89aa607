"""Norms, principal subspaces, their angles, and linear CKA."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

SAFE = 1e-12
"""A smaller norm is computed in float64, since squares of the entries may vanish in float32."""


def centred(vectors: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """The vectors minus their mean, in float64."""
    double = vectors.double()
    return double - double.mean(dim=0)


def principal(vectors: Float[Tensor, "n dim"], rank: int) -> Float[Tensor, "dim rank"]:
    """Orthonormal basis of the `rank` leading principal components of centred vectors.

    From the eigenvectors of the smaller of X Xᵀ and Xᵀ X. Fewer columns if the vectors span less, none if one
    of them is not finite.
    """
    count, width = vectors.shape
    if not bool(vectors.isfinite().all()):
        return vectors.new_empty(width, 0)
    tall = count >= width
    squares, eigenvectors = torch.linalg.eigh(vectors.T @ vectors if tall else vectors @ vectors.T)
    leading = squares.flip(0)[:rank]
    basis = eigenvectors.flip(1)[:, :rank][:, leading > 1e-12 * squares[-1].clamp(min=1e-300)]
    if tall:
        return basis.contiguous()
    return torch.nn.functional.normalize(vectors.T @ basis, dim=0)


def cosines(one: Float[Tensor, "dim a"], other: Float[Tensor, "dim b"]) -> Float[Tensor, " angle"]:
    """Cosines of the principal angles between two subspaces given by orthonormal bases, largest first."""
    return torch.linalg.svdvals(one.T @ other).clamp(max=1.0)


def overlap(one: Float[Tensor, "dim a"], other: Float[Tensor, "dim b"]) -> float:
    """‖AᵀB‖²_F / rank, the mean squared cosine of the principal angles: 1 for the same subspace.

    Two random subspaces have rank / dim on average. For bases of different rank, the larger rank counts; NaN
    for an empty basis.
    """
    if not (one.shape[1] and other.shape[1]):
        return math.nan
    return float((one.T @ other).square().sum()) / max(one.shape[1], other.shape[1])


def largest_angle(one: Float[Tensor, "dim a"], other: Float[Tensor, "dim b"]) -> float:
    """The largest principal angle in degrees, 0 for the same subspace and 90 for one orthogonal direction.

    From the sine if the angle is small: arccos loses half of the digits near 1 (Björck and Golub 1973). NaN
    for an empty basis.
    """
    if not (one.shape[1] and other.shape[1]):
        return math.nan
    sine = float(torch.linalg.matrix_norm(other - one @ (one.T @ other), ord=2))
    cosine = float(cosines(one, other).min())
    return math.degrees(math.asin(min(sine, 1.0)) if cosine > 0.7 else math.acos(cosine))


def linear_cka(one: Float[Tensor, "n a"], other: Float[Tensor, "n b"]) -> float:
    """‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of centred vectors: 1 for equal up to rotation and scale, 0 for unrelated.

    Source: Kornblith et al. 2019 (arXiv 1905.00414). With fewer vectors than dimensions, it is computed from
    the n×n Gram matrices, since tr(XXᵀ YYᵀ) is the same number. NaN if all vectors of a side are the same, or
    one is not finite.
    """
    if len(one) < one.shape[1]:
        left, right = one @ one.T, other @ other.T
        cross = float((left * right).sum())
    else:
        left, right = one.T @ one, other.T @ other
        cross = float((one.T @ other).square().sum())
    scale = float(left.norm() * right.norm())
    return cross / scale if scale > 0 else math.nan


def effective_rank(vectors: Float[Tensor, "n dim"]) -> float:
    """exp(−Σ pᵢ log pᵢ) with pᵢ = σᵢ² / Σσ², σ the singular values: directions that the energy fills.

    1 for vectors on a line, and the number of dimensions if all are used equally (Roy and Vetterli 2007, with
    energies). NaN if a vector is not finite, or all are zero.
    """
    return _entropic_rank(_energies(vectors))


def rankme(vectors: Float[Tensor, "n dim"]) -> float:
    """exp(−Σ pᵢ log pᵢ) with pᵢ = σᵢ / Σσ, σ the singular values of the vectors (not centred).

    Source: Garrido et al. 2023 (arXiv 2210.02885), equation 1. NaN as for `effective_rank`.
    """
    return _entropic_rank(_energies(vectors).sqrt())


def _energies(vectors: Float[Tensor, "n dim"]) -> Float[Tensor, " value"]:
    """Squared singular values in float64, from the smaller of X Xᵀ and Xᵀ X."""
    double = vectors.double()
    if not bool(double.isfinite().all()):
        return torch.full((1,), math.nan, dtype=torch.float64)
    tall = len(double) >= double.shape[1]
    return torch.linalg.eigvalsh(double.T @ double if tall else double @ double.T).clamp(min=0)


def _entropic_rank(weights: Float[Tensor, " value"]) -> float:
    return float(torch.special.entr(weights / weights.sum()).sum().exp())


def frobenius(matrices: Iterable[Tensor]) -> list[float]:
    """‖W‖_F of every matrix; equal bits in the same layout give equal bits; relative error below 1e-7.

    Each line of memory is summed in its own precision, float32 for float32, and the lines in float64: no copy
    is made. Everything is in float64 for half precision and for matrices with gaps, whose sums torch forms
    less carefully, and if float32 overflows or vanishes.
    """
    matrices = list(matrices)
    fast = [_line_norms(matrix).double().norm() for matrix in matrices]
    if not fast:
        return []
    norms = torch.stack([norm.to(fast[0].device) for norm in fast]).tolist()  # waits for a GPU once
    return [
        norm if SAFE < norm < float("inf") else float(matrix.double().norm())
        for norm, matrix in zip(norms, matrices, strict=True)
    ]


def ratio(now: float, before: float) -> float:
    """`now` / `before`; 1 for equal values, also if both are 0, and infinite if only `before` is 0."""
    if now == before:
        return 1.0
    return now / before if before else math.inf


def _line_norms(matrix: Tensor) -> Tensor:
    """Norms along the dimension that is contiguous in memory."""
    dim = 1 if matrix.stride(1) == 1 else 0
    imprecise = torch.finfo(matrix.dtype).bits < 32 or matrix.stride(dim) != 1
    return torch.linalg.vector_norm(matrix, dim=dim, dtype=torch.float64 if imprecise else matrix.dtype)

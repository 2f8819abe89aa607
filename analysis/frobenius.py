"""Frobenius norms of many matrices in one pass over their memory."""

from collections.abc import Iterable

import torch
from torch import Tensor

SAFE = 1e-12
"""Below it, squares of the entries may vanish in float32."""


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

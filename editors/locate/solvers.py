"""The closed forms of locate-then-edit: pure tensors in float64, no model in sight.

Orientation: W (out×in), keys K (in×n), residual R = V − W K (out×n), A (in×in) symmetric positive
definite, the weight of everything that should stay: A = λp C + λn I + Σ K Kᵀ of earlier edits.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from editors.errors import NumericsError


class Preserved:
    """A symmetric positive definite A, kept as its inverse so that adding keys is cheap.

    A ← A + K Kᵀ costs 2 in² n operations by Woodbury's identity instead of in³/3, so that the ten
    thousandth edit takes as long as the first.
    """

    def __init__(self, matrix: Float[Tensor, "in in"]) -> None:
        factor, info = torch.linalg.cholesky_ex(matrix.double())
        if int(info) != 0:
            raise NumericsError(
                f"the {matrix.shape[0]}×{matrix.shape[0]} matrix of preserved keys is not positive definite; "
                f"collect the second moment over more tokens or add a norm constraint"
            )
        self.inverse: Float[Tensor, "in in"] = torch.cholesky_inverse(factor)

    def solve(self, keys: Float[Tensor, "in n"]) -> Float[Tensor, "in n"]:
        """A⁻¹ K."""
        return self.inverse @ keys.double()

    def add(self, keys: Float[Tensor, "in n"]) -> None:
        """A ← A + K Kᵀ, by A⁻¹ ← A⁻¹ − Y (I + KᵀY)⁻¹ Yᵀ with Y = A⁻¹K."""
        solved = self.solve(keys)
        half = torch.linalg.solve_triangular(_root_of_gram(keys, solved), solved.T, upper=False)
        self.inverse -= half.T @ half


def least_squares(
    preserved: Preserved, keys: Float[Tensor, "in n"], residual: Float[Tensor, "out n"]
) -> tuple[Float[Tensor, "out n"], Float[Tensor, "in n"]]:
    """Factors (left, right) of Δ = R Kᵀ (A + K Kᵀ)⁻¹.

    Minimises tr(Δ A Δᵀ) + ‖Δ K − R‖². By Woodbury (A + KKᵀ)⁻¹K = Y (I + KᵀY)⁻¹ with Y = A⁻¹K.
    Source: MEMIT (arXiv 2210.07229), equation 14.
    """
    solved = preserved.solve(keys)
    root = _root_of_gram(keys, solved)
    return residual.double(), torch.cholesky_solve(solved.T, root).T


def equality(
    preserved: Preserved,
    keys: Float[Tensor, "in n"],
    residual: Float[Tensor, "out n"],
    ridge: float = 0.0,
) -> tuple[Float[Tensor, "out n"], Float[Tensor, "in n"]]:
    """Factors (left, right) of Δ = R (KᵀA⁻¹K + ridge I)⁻¹ KᵀA⁻¹, the smallest update with Δ K = R.

    Minimises tr(Δ A Δᵀ) subject to Δ K = R. With one column it is ROME's rank-one update; with a ridge ε
    it is least squares for ε A. Source: EMMET (arXiv 2403.14236).

    Raises:
        NumericsError: where two keys are so alike that no update can give both their values.
    """
    solved = preserved.solve(keys)
    gram = keys.double().T @ solved
    gram.diagonal().add_(ridge)
    root, info = torch.linalg.cholesky_ex(gram)
    pivots = root.diagonal().square()
    if int(info) != 0 or pivots.min() < 1e-13 * pivots.max():  # no digit of the solution would be right
        raise NumericsError(
            f"{keys.shape[1]} facts cannot all be stored exactly: their keys are linearly dependent; "
            f"use a ridge, or edit facts of the same subject one after another"
        )
    return residual.double(), torch.cholesky_solve(solved.T, root).T


def _root_of_gram(keys: Float[Tensor, "in n"], solved: Float[Tensor, "in n"]) -> Float[Tensor, "n n"]:
    """Cholesky factor of I + KᵀY."""
    gram = keys.double().T @ solved
    gram.diagonal().add_(1.0)
    return torch.linalg.cholesky(gram)

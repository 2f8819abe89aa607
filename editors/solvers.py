"""The closed forms of locate-then-edit: pure tensors in float64, without any model.

Orientation: W (out×in), keys K (in×n), residual R = V − W K (out×n), A (in×in) symmetric positive
definite, the weight of everything to preserve: A = λp C + λn I + Σ K Kᵀ of earlier edits.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from editors.errors import NumericsError


class Preserved(ABC):
    """The preserved directions: a symmetric positive definite A, needed only through A⁻¹ K."""

    @abstractmethod
    def solve(self, keys: Float[Tensor, "in n"]) -> Float[Tensor, "in n"]:
        """A⁻¹ K."""

    @abstractmethod
    def add(self, keys: Float[Tensor, "in n"]) -> None:
        """A ← A + K Kᵀ."""


class Dense(Preserved):
    """A + ridge I, kept as its inverse so that adding keys is cheap.

    A ← A + K Kᵀ costs 2 in² n operations by Woodbury's identity instead of in³/3, so that the
    ten-thousandth edit takes as long as the first.
    """

    def __init__(self, matrix: Float[Tensor, "in in"], ridge: float = 0.0) -> None:
        matrix = matrix.double().clone()
        matrix.diagonal().add_(ridge)
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info) != 0:
            raise NumericsError(
                f"the {matrix.shape[0]}×{matrix.shape[0]} matrix of preserved keys is not positive definite; "
                f"collect the second moment over more tokens or add a norm constraint"
            )
        self.inverse: Float[Tensor, "in in"] = torch.cholesky_inverse(factor)

    def solve(self, keys: Float[Tensor, "in n"]) -> Float[Tensor, "in n"]:
        """A⁻¹ K."""
        return self.inverse @ keys.to(self.inverse)

    def add(self, keys: Float[Tensor, "in n"]) -> None:
        """A ← A + K Kᵀ, by A⁻¹ ← A⁻¹ − Y (I + KᵀY)⁻¹ Yᵀ with Y = A⁻¹K."""
        half = _correction(keys.to(self.inverse), self.solve(keys))
        self.inverse -= half @ half.T


class FreeSpace(Preserved):
    """Preserved directions that leave a null space."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Dimensions of the null space."""


class NullSpace(FreeSpace):
    """A = ridge I inside the null space of the preserved keys, and infinite outside of it.

    A⁻¹ = (I − U Uᵀ) / ridge − H Hᵀ with U (in, rank) the preserved directions and H Hᵀ the part that
    remembered keys have subtracted. Both stay thin: A⁻¹ K costs 2 in (rank + keys) n operations instead of
    2 in² n, until they are wider than half the matrix; then A⁻¹ is formed.

    Source: AlphaEdit (arXiv 2410.02355), whose system P(KKᵀ + S) + L₂ I has this solution.
    """

    def __init__(self, preserved: Float[Tensor, "in rank"], ridge: float) -> None:
        self.ridge = ridge
        self._directions = preserved.double()
        self._subtracted = self._directions[:, :0]
        self._inverse: Tensor | None = None

    @property
    def rank(self) -> int:
        """Dimensions of the null space."""
        return self._directions.shape[0] - self._directions.shape[1]

    def solve(self, keys: Float[Tensor, "in n"]) -> Float[Tensor, "in n"]:
        """A⁻¹ K."""
        keys = keys.to(self._directions)
        if self._inverse is not None:
            return self._inverse @ keys
        free = keys - self._directions @ (self._directions.T @ keys)
        return free / self.ridge - self._subtracted @ (self._subtracted.T @ keys)

    def add(self, keys: Float[Tensor, "in n"]) -> None:
        """A ← A + K Kᵀ."""
        half = _correction(keys.to(self._directions), self.solve(keys))
        if self._inverse is not None:
            self._inverse -= half @ half.T
            return
        self._subtracted = torch.cat([self._subtracted, half], dim=1)
        width = self._directions.shape[0]
        if self._directions.shape[1] + self._subtracted.shape[1] > width // 2:
            self._inverse = self.solve(torch.eye(width).to(self._directions))


class RefreshedNullSpace(FreeSpace):
    """A = w C + Σ K Kᵀ + ridge I inside a null space that is found anew after every `every` keys.

    The null space holds the eigenvectors of M with eigenvalues below `threshold`: first of C, then of
    (Σ K Kᵀ / n + w C) / (w + 1) with n keys so far. Outside of it A is infinite, so that
    A⁻¹ = V (Vᵀ (w C + Σ K Kᵀ) V + ridge I)⁻¹ Vᵀ with V (in, rank) those vectors. C, Σ K Kᵀ and A⁻¹ are dense.

    Source: BetaEdit (arXiv 2605.09285), whose system P (K Kᵀ + Σ K Kᵀ + w C) + ridge I has this solution.
    """

    def __init__(
        self, moment: Float[Tensor, "in in"], *, weight: float, threshold: float, ridge: float, every: int
    ) -> None:
        self._rank = 0
        self._moment = moment.double()
        self._weight, self._threshold, self._ridge, self._every = weight, threshold, ridge, every
        self._remembered = torch.zeros_like(self._moment)
        self._count = self._refreshed = 0
        self._inverse = self._inverted(self._moment)

    @property
    def rank(self) -> int:
        """Dimensions of the null space."""
        return self._rank

    def solve(self, keys: Float[Tensor, "in n"]) -> Float[Tensor, "in n"]:
        """A⁻¹ K.

        Raises:
            NumericsError: if edits have used up the null space.
        """
        if not self._rank:
            raise NumericsError(
                f"no direction is left for new facts after {self._count} edits: "
                f"raise editor.threshold ({self._threshold:g})"
            )
        return self._inverse @ keys.to(self._inverse)

    def add(self, keys: Float[Tensor, "in n"]) -> None:
        """A ← A + K Kᵀ, and a new null space if it is time."""
        keys = keys.to(self._moment)
        self._remembered += keys @ keys.T
        self._count += keys.shape[1]
        if self._count - self._refreshed >= self._every:
            self._refreshed = self._count
            known = self._remembered / self._count + self._weight * self._moment
            self._inverse = self._inverted(known / (self._weight + 1))
        elif self._rank:
            half = _correction(keys, self.solve(keys))
            self._inverse -= half @ half.T

    def _inverted(self, known: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
        """A⁻¹ in the null space of `known`."""
        values, vectors = torch.linalg.eigh(known)
        free = vectors[:, values < self._threshold]
        self._rank = free.shape[1]
        inside = free.T @ (self._weight * self._moment + self._remembered) @ free
        inside.diagonal().add_(self._ridge)
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(inside), free.T, upper=False)
        return half.T @ half


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


def least_squares_of(
    preserved: Preserved, keys: Float[Tensor, "in n"], right: Float[Tensor, "out in"]
) -> Float[Tensor, "out in"]:
    """B (A + K Kᵀ)⁻¹ for any right-hand side B; `least_squares` has it in factors for R Kᵀ."""
    half = _correction(keys, preserved.solve(keys))
    return (preserved.solve(right.T) - half @ (half.T @ right.T.to(half))).T


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
        NumericsError: if two keys are so similar that no update can give both their values.
    """
    solved = preserved.solve(keys)
    gram = keys.to(solved).T @ solved
    gram.diagonal().add_(ridge)
    root, info = torch.linalg.cholesky_ex(gram)
    pivots = root.diagonal().square()
    if int(info) != 0 or pivots.min() < 1e-13 * pivots.max():  # no digit of the solution would be right
        raise NumericsError(
            f"{keys.shape[1]} facts cannot all be stored exactly: their keys are linearly dependent; "
            f"use a ridge, or edit facts of the same subject one after another"
        )
    return residual.double(), torch.cholesky_solve(solved.T, root).T


def _correction(keys: Float[Tensor, "in n"], solved: Float[Tensor, "in n"]) -> Float[Tensor, "in n"]:
    """H with H Hᵀ = Y (I + KᵀY)⁻¹ Yᵀ, the part that adding keys subtracts from A⁻¹."""
    return torch.linalg.solve_triangular(_root_of_gram(keys, solved), solved.T, upper=False).T


def _root_of_gram(keys: Float[Tensor, "in n"], solved: Float[Tensor, "in n"]) -> Float[Tensor, "n n"]:
    """Cholesky factor of I + KᵀY."""
    gram = keys.to(solved).T @ solved
    gram.diagonal().add_(1.0)
    return torch.linalg.cholesky(gram)

"""Factored and dense changes agree."""

import pytest
import torch

from editors.updates import Delta


@pytest.fixture
def factored() -> Delta:
    generator = torch.Generator().manual_seed(0)
    return Delta(
        left=torch.randn(6, 2, generator=generator, dtype=torch.float64),
        right=torch.randn(9, 2, generator=generator, dtype=torch.float64),
    )


def test_norm_and_inner_product_from_factors_are_those_of_the_matrix(factored: Delta):
    matrix = factored.dense()
    weight = torch.arange(54, dtype=torch.float64).view(6, 9)
    assert factored.norm() == pytest.approx(float(matrix.norm()))
    assert factored.inner(weight) == pytest.approx(float((weight * matrix).sum()))
    assert Delta(left=matrix).norm() == pytest.approx(factored.norm())
    assert Delta(left=matrix).inner(weight) == pytest.approx(factored.inner(weight))


def test_growth_of_the_square_norm_is_cross_term_plus_square(factored: Delta):
    weight = torch.arange(54, dtype=torch.float64).view(6, 9)
    grown = float(((weight + factored.dense()) ** 2).sum() - (weight**2).sum())
    assert grown == pytest.approx(2 * factored.inner(weight) + factored.square())


def test_a_nan_in_either_factor_is_seen(factored: Delta):
    assert factored.is_finite()
    assert not Delta(left=factored.left, right=factored.right * float("inf")).is_finite()


@pytest.mark.parametrize("one_is_dense", [True, False])
@pytest.mark.parametrize("other_is_dense", [True, False])
def test_the_product_of_two_changes_is_that_of_their_matrices(
    factored: Delta, one_is_dense: bool, other_is_dense: bool
):
    assert factored.right is not None
    another = Delta(left=factored.left.flip(0)[:, :1], right=factored.right.flip(0)[:, :1])
    one = Delta(left=factored.dense()) if one_is_dense else factored
    other = Delta(left=another.dense()) if other_is_dense else another
    expected = float((factored.dense() * another.dense()).sum())
    assert one.dot(other) == pytest.approx(expected)
    assert one.dot(one) == pytest.approx(factored.square())


def test_factors_wider_than_the_matrix_are_multiplied_out():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(rows, 10**5, generator=generator) for rows in (3, 2))
    wide, thin = Delta(left=left, right=right), Delta(left=left[:, :1], right=right[:, :1])
    matrix = left.double() @ right.double().T  # 3 × 2; leftᵀ left would have 80 GB
    assert wide.square() == pytest.approx(float((matrix * matrix).sum()))
    assert wide.dot(wide) == pytest.approx(wide.square())
    assert wide.dot(thin) == pytest.approx(float((matrix * thin.dense()).sum()))

"""Norms in one pass are those of numpy in every precision and layout, and the same bits for the same bits."""

import math

import numpy as np
import pytest
import torch

from analysis.linalg import effective_rank, frobenius, rankme


def random(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5), (64, 4096), (4096, 64), (1, 20000)])
def test_norms_are_those_of_numpy_in_every_layout(dtype: torch.dtype, shape: tuple[int, int]):
    matrix = random(*shape, dtype=dtype)
    expected = np.linalg.norm(matrix.double().numpy())
    views = [matrix, matrix.T, matrix[::2], matrix.T[::2].T]
    found = frobenius(views)
    assert found[:2] == pytest.approx([expected, expected], rel=1e-7)
    assert found[2:] == pytest.approx([np.linalg.norm(v.double().numpy()) for v in views[2:]], rel=1e-7)


def test_the_same_matrix_has_the_same_norm_whoever_else_is_measured():
    matrices = [random(40, 30), random(30, 40, scale=2.0), random(8, 8)]
    together = frobenius(matrices)
    assert together == [frobenius([matrix.clone()])[0] for matrix in matrices]
    assert frobenius([]) == []


@pytest.mark.parametrize("scale", [1e25, 1e-30])
def test_what_float32_cannot_square_is_measured_all_the_same(scale: float):
    matrix = random(16, 16, scale=scale)
    (found,) = frobenius([matrix])
    assert found == pytest.approx(np.linalg.norm(matrix.double().numpy()), rel=1e-7, abs=0)


def test_zero_is_zero_and_what_is_no_number_stays_none():
    zero, broken = torch.zeros(4, 4), torch.full((4, 4), torch.inf)
    assert frobenius([zero, broken]) == [0.0, torch.inf]
    assert np.isnan(frobenius([broken - broken])[0])


def test_ranks_count_the_directions_that_vectors_fill():
    line = torch.outer(torch.arange(1.0, 9.0), torch.ones(5))
    assert effective_rank(line) == pytest.approx(1) and rankme(line) == pytest.approx(1, abs=1e-5)
    equal = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(equal) == pytest.approx(4) and rankme(equal) == pytest.approx(4)
    vectors = torch.randn(30, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(vectors)
    for found, shares in (
        (effective_rank(vectors), values**2 / (values**2).sum()),
        (rankme(vectors), values / values.sum()),
        (rankme(vectors.T), values / values.sum()),
    ):
        assert found == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-6)
    assert rankme(vectors) > effective_rank(vectors), "energies stress the leading directions"
    vectors[0, 0] = math.nan
    assert math.isnan(rankme(vectors)) and math.isnan(effective_rank(vectors))

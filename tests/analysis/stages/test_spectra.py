"""Spectra against numpy's SVD; subspaces, angles and CKA against turns that are known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.linalg import centred, cosines, largest_angle, linear_cka, overlap, principal
from analysis.stages.base import Observation
from analysis.stages.reference import Reference
from analysis.stages.spectra import Spectra, hyperspherical_energy, spectrum
from editors.errors import ConfigError
from editors.updates import Site
from tests.tiny import tiny_model

SITE = Site("mlp_down", 1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(width: int, degrees: float, plane: tuple[int, int] = (0, 1)) -> Tensor:
    turn, (i, j), angle = torch.eye(width, dtype=torch.float64), plane, math.radians(degrees)
    turn[i, i] = turn[j, j] = math.cos(angle)
    turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
    return turn


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_a_spectrum_is_that_of_numpy(shape: tuple[int, int]):
    matrix = random(*shape)
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    found = spectrum(matrix, 3)
    assert found.values.numpy() == pytest.approx(values)
    assert np.abs(np.diag(left[:, :3].T @ found.left.numpy())) == pytest.approx(np.ones(3))
    assert np.abs(np.diag(right[:3] @ found.right.numpy())) == pytest.approx(np.ones(3))
    assert found.condition == pytest.approx(np.linalg.cond(matrix.numpy()))
    assert found.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2)


def test_ranks_of_an_orthogonal_and_of_a_rank_one_matrix():
    """An orthogonal matrix has full ranks and condition number 1, a matrix of rank one has ranks 1."""
    turn, _ = torch.linalg.qr(random(10, 10))
    whole, thin = spectrum(turn, 2), spectrum(random(10, 1) @ random(1, 10, seed=1), 2)
    assert [whole.stable_rank, whole.effective_rank] == pytest.approx([10, 10])
    assert whole.condition == pytest.approx(1)
    assert [thin.stable_rank, thin.effective_rank] == pytest.approx([1, 1], abs=1e-5)


def test_energy_is_the_mean_inverse_distance_of_normalised_rows():
    rows = random(7, 5)
    unit = torch.nn.functional.normalize(rows, dim=1)
    expected = float((1 / torch.nn.functional.pdist(unit)).mean())
    assert hyperspherical_energy(rows) == pytest.approx(expected)
    assert hyperspherical_energy(rows * torch.arange(1, 8)[:, None]) == pytest.approx(expected)


def test_parallel_rows_have_infinite_energy():
    rows = random(5, 7)
    rows[1] = 3 * rows[0]
    assert math.isinf(hyperspherical_energy(rows))


def test_vectors_that_are_no_numbers_have_neither_angle_nor_likeness():
    cloud, broken = random(30, 6), random(30, 6, seed=1)
    broken[3, 2] = math.nan
    one, other = principal(centred(cloud), 3), principal(centred(broken), 3)
    assert other.shape == (6, 0)
    found = overlap(one, other), largest_angle(one, other), linear_cka(centred(cloud), centred(broken))
    assert all(math.isnan(value) for value in found)


def test_a_dominant_direction_raises_the_energy_and_lowers_the_ranks():
    matrix = random(20, 30)
    pushed = matrix + 20 * torch.outer(torch.ones(20, dtype=torch.float64), random(30, seed=2)) / 30**0.5
    assert hyperspherical_energy(pushed) > 1.5 * hyperspherical_energy(matrix)
    assert spectrum(pushed, 2).effective_rank < spectrum(matrix, 2).effective_rank


@pytest.mark.parametrize("degrees", [0.001, 10.0, 60.0, 90.0])
def test_a_known_turn_of_a_plane_is_the_angle_that_is_found(degrees: float):
    basis = torch.eye(6, dtype=torch.float64)[:, :2]
    turned = rotation(6, degrees, plane=(1, 4)) @ basis
    assert largest_angle(basis, turned) == pytest.approx(degrees, rel=1e-6)
    assert overlap(basis, turned) == pytest.approx((1 + math.cos(math.radians(degrees)) ** 2) / 2)
    assert float(cosines(basis, turned)[0]) == pytest.approx(1)


def test_a_turn_within_the_subspace_changes_nothing():
    basis = torch.eye(6, dtype=torch.float64)[:, :2]
    turned = rotation(6, 35, plane=(0, 1)) @ basis
    assert largest_angle(basis, turned) == pytest.approx(0, abs=1e-6)
    assert overlap(basis, turned) == pytest.approx(1)


@pytest.mark.parametrize("count", [8, 200])
def test_principal_components_find_the_planted_plane(count: int):
    scales = torch.tensor([9.0, 5.0, *[0.01] * 18], dtype=torch.float64)
    turn, _ = torch.linalg.qr(random(20, 20))
    found = principal(centred((random(count, 20, seed=1) * scales) @ turn.T + 3), 2)
    assert largest_angle(turn[:, :2], found) < 1
    assert found.T @ found == pytest.approx(torch.eye(2).double().numpy(), abs=1e-9)


def test_fewer_vectors_than_components_give_a_smaller_basis():
    assert principal(centred(random(3, 20)), 10).shape == (20, 2)


@pytest.mark.parametrize("count", [10, 100])
def test_cka_ignores_rotation_scale_and_shift(count: int):
    """It tells unrelated clouds apart."""
    cloud = random(count, 30)
    turn, _ = torch.linalg.qr(random(30, 30, seed=1))
    assert linear_cka(centred(cloud), centred(2.5 * cloud @ turn + 7)) == pytest.approx(1)
    one, other = (centred(random(count, 30, seed=seed)).numpy() for seed in (0, 3))
    gram, another = (one @ one.T).ravel(), (other @ other.T).ravel()
    cosine = gram @ another / np.linalg.norm(gram) / np.linalg.norm(another)
    found = linear_cka(centred(cloud), centred(random(count, 30, seed=3)))
    assert found == pytest.approx(cosine) and found < 0.95


def test_cka_is_the_same_from_either_gram_matrix():
    one, other = centred(random(30, 30)), centred(random(30, 30, seed=1))
    wide = torch.cat([one, torch.zeros(30, 1).double()], dim=1)
    assert linear_cka(one, other) == pytest.approx(linear_cka(wide, other))


def test_unchanged_matrices_are_logged_once():
    """A scaled matrix keeps its directions."""
    model, stage = tiny_model(), Spectra(rank=3)
    stage.prepare(model)
    reference = Reference(model)
    first = stage.measure(model, Observation(count=0, total=9, reference=reference, edited=[SITE]))
    assert f"norm/spectral/{SITE}" in first and "norm/spectral/attn_q.00" in first
    model.write(SITE, 2 * model.weight(*SITE))
    seen = Observation(count=1, changes=1, total=9, reference=reference, edited=[SITE])
    later = stage.measure(model, seen)
    assert {key.rpartition("/")[2] for key in later} == {str(SITE)}
    assert later[f"norm/singular_2/{SITE}"] == pytest.approx(2 * first[f"norm/singular_2/{SITE}"])
    for quantity in ("stable_rank", "condition", "hyperspherical_energy", "effective_rank"):
        key = f"norm/{quantity}/{SITE}"
        assert later[key] == pytest.approx(first[key])
    assert later[f"norm/subspace_left/{SITE}"] == pytest.approx(1)


def test_a_turned_matrix_loses_its_dominant_subspace_on_one_side_only():
    model, stage = tiny_model(), Spectra(rank=2)
    stage.prepare(model)
    reference, width = Reference(model), model.width
    turn, _ = torch.linalg.qr(random(width, width, seed=4))
    model.write(SITE, turn @ model.weight(*SITE))
    found = stage.measure(model, Observation(count=1, total=9, reference=reference, edited=[SITE]))
    assert found[f"norm/subspace_left/{SITE}"] < 0.5
    assert found[f"norm/subspace_right/{SITE}"] == pytest.approx(1)


def test_only_edited_sites_if_configured_and_no_rank_below_one():
    model, stage = tiny_model(), Spectra(sites="edited")
    stage.prepare(model)
    seen = Observation(count=0, total=9, reference=Reference(model), edited=[SITE])
    assert {key.rpartition("/")[2] for key in stage.measure(model, seen)} == {str(SITE)}
    with pytest.raises(ConfigError, match=r"stage\.spectra\.rank=0.*at least 1"):
        Spectra(rank=0)

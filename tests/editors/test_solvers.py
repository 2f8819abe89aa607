"""The closed forms against their defining properties, in float64."""

import pytest
import torch
from jaxtyping import TypeCheckError

from editors.errors import NumericsError, first_line
from editors.solvers import (
    Dense,
    NullSpace,
    RefreshedNullSpace,
    _correction,
    equality,
    least_squares,
)

IN, OUT, N = 40, 12, 5


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    features = draw(IN, 3 * IN)
    return features @ features.T / (3 * IN), draw(IN, N), draw(OUT, N)


def dense(factors: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return factors[0] @ factors[1].T


def test_least_squares_is_the_published_formula(problem):
    a, keys, residual = problem
    expected = residual @ keys.T @ torch.linalg.inv(a + keys @ keys.T)
    torch.testing.assert_close(dense(least_squares(Dense(a), keys, residual)), expected)


def test_least_squares_is_a_stationary_point_of_its_objective(problem):
    a, keys, residual = problem
    delta = dense(least_squares(Dense(a), keys, residual)).requires_grad_()
    objective = (delta @ a * delta).sum() + ((delta @ keys - residual) ** 2).sum()
    (gradient,) = torch.autograd.grad(objective, delta)
    assert gradient.abs().max() < 1e-10


def test_equality_maps_every_key_to_its_value(problem):
    """The scale of the preserved directions does not matter."""
    a, keys, residual = problem
    delta = dense(equality(Dense(a), keys, residual))
    torch.testing.assert_close(delta @ keys, residual)
    torch.testing.assert_close(dense(equality(Dense(1000 * a), keys, residual)), delta)


def test_equality_with_one_key_is_the_rank_one_update_of_rome(problem):
    a, keys, residual = problem
    key, value = keys[:, :1], residual[:, :1]
    direction = torch.linalg.solve(a, key)
    expected = value @ direction.T / (key.T @ direction)
    torch.testing.assert_close(dense(equality(Dense(a), key, value)), expected)


def test_least_squares_tends_to_equality_as_less_is_preserved(problem):
    a, keys, residual = problem
    exact = dense(equality(Dense(a), keys, residual))
    gaps = [
        float((dense(least_squares(Dense(w * a), keys, residual)) - exact).norm())
        for w in (1.0, 1e-2, 1e-4, 1e-6)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-4 * float(exact.norm())


def test_equality_with_a_ridge_is_least_squares(problem):
    """The preserved directions are multiplied by the ridge."""
    a, keys, residual = problem
    with_ridge = dense(equality(Dense(a), keys, residual, ridge=0.1))
    torch.testing.assert_close(with_ridge, dense(least_squares(Dense(0.1 * a), keys, residual)))


def test_history_makes_sequential_equal_batch_and_without_it_they_differ(problem):
    a, keys, values = problem
    whole = dense(least_squares(Dense(a), keys, values))

    def sequence(remember: bool) -> torch.Tensor:
        preserved, total = Dense(a), torch.zeros(OUT, IN, dtype=torch.float64)
        for i in range(N):
            key, value = keys[:, i : i + 1], values[:, i : i + 1]
            total = total + dense(least_squares(preserved, key, value - total @ key))
            if remember:
                preserved.add(key)
        return total

    torch.testing.assert_close(sequence(remember=True), whole)
    assert (sequence(remember=False) - whole).norm() > 0.01 * whole.norm()


def test_adding_keys_two_by_two_keeps_the_inverse_exact(problem):
    a, _, _ = problem
    generator = torch.Generator().manual_seed(1)
    preserved, direct = Dense(a), a.clone()
    for _ in range(200):
        keys = torch.randn(IN, 2, generator=generator, dtype=torch.float64)
        preserved.add(keys)
        direct += keys @ keys.T
    expected = torch.linalg.inv(direct)
    assert (preserved.inverse - expected).norm() < 1e-9 * expected.norm()


def test_a_matrix_that_is_not_positive_definite_is_refused_in_a_sentence():
    with pytest.raises(NumericsError, match="not positive definite"):
        Dense(torch.zeros(3, 3))


def test_equal_keys_cannot_be_stored_exactly_and_the_error_says_so(problem):
    a, keys, residual = problem
    twice = keys[:, [0, 0]]
    with pytest.raises(NumericsError, match="linearly dependent"):
        equality(Dense(a), twice, residual[:, :2])


# --- the null space ---------------------------------------------------------------------------------


@pytest.fixture
def known() -> torch.Tensor:
    """Ten directions that hold what is known, (in, 10)."""
    generator = torch.Generator().manual_seed(2)
    return torch.linalg.qr(torch.randn(IN, 10, generator=generator, dtype=torch.float64)).Q


def published(
    known: torch.Tensor, past: torch.Tensor, keys: torch.Tensor, residual: torch.Tensor, ridge: float
):
    """Δ of AlphaEdit as its code has it: Δᵀ = (P (K Kᵀ + S) + L₂ I)⁻¹ P K Rᵀ."""
    free = torch.eye(IN, dtype=torch.float64) - known @ known.T
    system = free @ (keys @ keys.T + past @ past.T) + ridge * torch.eye(IN, dtype=torch.float64)
    return torch.linalg.solve(system, free @ keys @ residual.T).T


@pytest.mark.parametrize("earlier", [0, 4, 30])
def test_the_null_space_solves_the_published_system_thin_or_dense(problem, known, earlier):
    _, keys, residual = problem
    generator = torch.Generator().manual_seed(3)
    past = torch.randn(IN, earlier, generator=generator, dtype=torch.float64)
    space = NullSpace(known, ridge=2.0)
    assert space.rank == IN - 10
    for column in past.T:
        space.add(column[:, None])
    expected = published(known, past, keys, residual, 2.0)
    torch.testing.assert_close(dense(least_squares(space, keys, residual)), expected, rtol=1e-9, atol=1e-12)


def test_the_null_space_gives_the_same_thin_and_dense(problem, known):
    _, keys, residual = problem
    generator = torch.Generator().manual_seed(4)
    past = torch.randn(IN, 24, generator=generator, dtype=torch.float64)
    thin, wide = NullSpace(known, ridge=2.0), NullSpace(known, ridge=2.0)
    for part in past.split(4, dim=1):
        wide.add(part)
        thin._subtracted = torch.cat([thin._subtracted, _correction(part, thin.solve(part))], dim=1)
        one, other = (dense(least_squares(space, keys, residual)) for space in (thin, wide))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert thin._inverse is None and wide._inverse is not None


def test_an_update_in_the_null_space_leaves_preserved_keys_untouched(problem, known):
    _, keys, residual = problem
    space = NullSpace(known, ridge=2.0)
    for _ in range(2):
        delta = dense(least_squares(space, keys, residual))
        assert delta.norm() > 0.1 and (delta @ known).abs().max() < 1e-12
        space.add(keys)


def test_with_nothing_preserved_and_no_history_it_is_ridge_regression(problem):
    _, keys, residual = problem
    nothing = torch.zeros(IN, 0, dtype=torch.float64)
    ridge = 3.0 * torch.eye(IN, dtype=torch.float64)
    expected = residual @ keys.T @ torch.linalg.inv(keys @ keys.T + ridge)
    torch.testing.assert_close(dense(least_squares(NullSpace(nothing, 3.0), keys, residual)), expected)
    torch.testing.assert_close(dense(least_squares(Dense(ridge), keys, residual)), expected)


@pytest.mark.parametrize("size", [1, 2])
def test_history_makes_sequential_equal_batch_in_the_null_space_too(problem, known, size):
    _, keys, values = problem
    space, total = NullSpace(known, ridge=2.0), torch.zeros(OUT, IN, dtype=torch.float64)
    for key, value in zip(keys.split(size, dim=1), values.split(size, dim=1), strict=True):
        total = total + dense(least_squares(space, key, value - total @ key))
        space.add(key)
    torch.testing.assert_close(total, dense(least_squares(NullSpace(known, ridge=2.0), keys, values)))


HALF = 0.9
"""Between the eigenvalues of the first moment."""


@pytest.fixture
def refreshed(problem) -> RefreshedNullSpace:
    """About half of the space is null; it is found anew with every second batch of keys."""
    a, keys, _ = problem
    return RefreshedNullSpace(a, weight=3.0, threshold=HALF, ridge=0.5, every=2 * keys.shape[1])


def betaedit(a, remembered, projection, keys, residual) -> torch.Tensor:
    """Δ of BetaEdit as its code solves it, without using any symmetry."""
    system = projection @ (keys @ keys.T + remembered + 3.0 * a) + 0.5 * torch.eye(IN).double()
    return torch.linalg.solve(system, projection @ keys @ residual.T).T


def projection_below(matrix: torch.Tensor) -> torch.Tensor:
    left, values, _ = torch.linalg.svd(matrix)
    free = left[:, values < HALF]
    return free @ free.T


def test_a_refreshed_null_space_is_the_published_system(problem, refreshed: RefreshedNullSpace):
    """Before it is found anew, after earlier keys, and with the new one."""
    a, keys, residual = problem
    remembered, projection, ranks = torch.zeros_like(a), projection_below(a), []
    for batch in range(4):
        ours = dense(least_squares(refreshed, keys, residual))
        torch.testing.assert_close(ours, betaedit(a, remembered, projection, keys, residual))
        ranks.append(refreshed.rank)
        refreshed.add(keys)
        remembered = remembered + keys @ keys.T
        if batch % 2:
            known = remembered / ((batch + 1) * keys.shape[1]) + 3.0 * a
            projection = projection_below(known / 4.0)
    assert ranks[0] == ranks[1] != ranks[2]


def test_a_refreshed_null_space_excludes_what_was_written(problem, refreshed: RefreshedNullSpace):
    _, keys, residual = problem
    refreshed.add(1e6 * torch.cat([keys, keys], dim=1))
    new = keys + torch.roll(keys, 1, dims=0)
    delta = dense(least_squares(refreshed, new, residual))
    assert delta.norm() > 1e-2 and (delta @ keys).norm() < 1e-9 * delta.norm() * keys.norm()


def test_a_null_space_that_is_used_up_is_reported(refreshed: RefreshedNullSpace):
    refreshed.add(100 * torch.eye(IN).double())
    with pytest.raises(NumericsError, match=rf"no direction is left for new facts after {IN} edits: raise"):
        refreshed.solve(torch.ones(IN, 1).double())


def test_history_and_a_ridge_anchor_a_sequence_at_the_unedited_weights(problem):
    """RLSEdit: one solution for all edits that pays for every step away from W₀."""
    a, keys, residual = problem
    start = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1)).double()
    values = start @ keys + residual
    preserved, weight = Dense(a, ridge=0.7), start
    for column in range(N):
        key, value = keys[:, column : column + 1], values[:, column : column + 1]
        weight = weight + dense(least_squares(preserved, key, value - weight @ key))
        preserved.add(key)
    weight.requires_grad_()
    drift = weight - start
    objective = ((weight @ keys - values) ** 2).sum() + (drift @ a * drift).sum() + 0.7 * (drift**2).sum()
    (gradient,) = torch.autograd.grad(objective, weight)
    assert gradient.abs().max() < 1e-10


def test_shapes_that_are_written_are_checked():
    """By the test process; a function without shapes is left as it is."""
    keys, residual = torch.zeros(3, 2), torch.zeros(4, 5)
    with pytest.raises(TypeCheckError, match="residual"):
        least_squares(Dense(torch.eye(3)), keys, residual)
    assert hasattr(least_squares, "__wrapped__") and not hasattr(first_line, "__wrapped__")

"""The batched solver against scikit-learn and against what a regression has to do whatever its data."""

import logging
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from analysis.stages.probes.classifiers import Classifiers, layer_labels
from analysis.stages.probes.logistic import BatchedLogistic
from editors.errors import ConfigError, NumericsError
from tests.sklearn_logistic import SklearnLogistic

PAIRS = ((0, 1), (0, 2), (2, 1))
TIGHT = {"tolerance": 1e-8}


pytestmark = pytest.mark.usefixtures("one_thread")


def clouds(*, layers: int = 3, samples: int = 300, width: int = 12, apart: float = 0.5) -> Tensor:
    """Correlated clouds whose means lie `apart` standard deviations from each other in every direction."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    centres = apart * torch.randn(layers, 1, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(layers, samples, width, generator=generator, dtype=torch.float64)
    return (noise + centres) @ mixing + 3.0


def aligned(classifiers: Classifiers, direction: Tensor) -> Tensor:
    """Cosine of each classifier's weights with a direction."""
    return torch.cosine_similarity(classifiers.weights, direction.expand_as(classifiers.weights))


@pytest.mark.parametrize("standardise", [True, False], ids=["standardised", "raw"])
@pytest.mark.parametrize("apart", [0.1, 0.5, 20.0], ids=["mixed", "overlapping", "separable"])
@pytest.mark.parametrize("inverse_penalty", [0.1, 1.0])
def test_coefficients_are_those_of_scikit_learn(apart: float, inverse_penalty: float, standardise: bool):
    options = {"inverse_penalty": inverse_penalty, "standardise": standardise, **TIGHT}
    layers = clouds(apart=apart)
    ours, theirs = (solver(**options).fit(layers, PAIRS) for solver in (BatchedLogistic, SklearnLogistic))
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-4, atol=1e-5)
    # raw means are large, and multiply what the weights differ by
    tolerance = 1e-4 if standardise else 0.02
    torch.testing.assert_close(ours.intercepts, theirs.intercepts, rtol=1e-4, atol=tolerance)
    assert torch.equal(ours.accuracy(layers), theirs.accuracy(layers))


def test_other_labels_than_the_layers_are_those_of_scikit_learn_too():
    layers = clouds()
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    labels = (order < 300).reshape(1, 2, 300).expand(3, 2, 300)
    ours = BatchedLogistic(**TIGHT).fit(layers, PAIRS, labels)
    theirs = SklearnLogistic(**TIGHT).fit(layers, PAIRS, labels)
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-4, atol=1e-6)


def test_the_layers_as_labels_are_what_is_fitted_without_any():
    layers = clouds()
    ours, given = (
        BatchedLogistic().fit(layers, PAIRS, labels) for labels in (None, layer_labels(layers, PAIRS))
    )
    torch.testing.assert_close(ours.weights, given.weights, rtol=1e-9, atol=1e-12)


def test_a_planted_direction_is_found():
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(20, generator=generator), dim=0)
    layers = torch.randn(3, 2000, 20, generator=generator)
    layers += 2.0 * torch.arange(3)[:, None, None] * direction
    classifiers = BatchedLogistic().fit(layers, ((0, 1), (0, 2), (1, 2)))
    assert bool((aligned(classifiers, direction) > 0.97).all())
    assert bool((classifiers.accuracy(layers) > 0.8).all())


def test_layers_that_are_alike_have_no_weights_and_exactly_half_is_right():
    layers = clouds()[:1].repeat(2, 1, 1)
    classifiers = BatchedLogistic().fit(layers, ((0, 1),))
    assert float(classifiers.weights.abs().max()) == 0
    assert classifiers.accuracy(layers).tolist() == [0.5]


def test_scale_and_shift_of_a_feature_change_nothing():
    layers = clouds()
    scale, shift = torch.logspace(-3, 3, 12, dtype=torch.float64), torch.linspace(-50, 50, 12).double()
    before = BatchedLogistic(**TIGHT).fit(layers, PAIRS)
    after = BatchedLogistic(**TIGHT).fit(layers * scale + shift, PAIRS)
    torch.testing.assert_close(after.weights * scale, before.weights, rtol=1e-5, atol=1e-7)
    assert torch.equal(after.accuracy(layers * scale + shift), before.accuracy(layers))


def test_raw_features_are_those_of_scikit_learn_whatever_their_scales():
    """The penalty depends on the units of a feature, so the weights are not the standardised ones."""
    layers = clouds() * torch.logspace(-2, 2, 12, dtype=torch.float64)
    options = {"standardise": False, **TIGHT}
    ours = BatchedLogistic(**options).fit(layers, PAIRS)
    theirs = SklearnLogistic(**options, max_iterations=10_000).fit(layers, PAIRS)
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-3, atol=1e-4)
    standardised = BatchedLogistic(**TIGHT).fit(layers, PAIRS)
    assert float((ours.weights - standardised.weights).abs().max()) > 0.01


def test_a_constant_feature_gets_no_weight():
    layers = clouds()
    layers[:, :, 3] = 7.3
    classifiers = BatchedLogistic().fit(layers.float(), PAIRS)
    assert bool((classifiers.weights[:, 3] == 0).all())
    theirs = SklearnLogistic(**TIGHT).fit(layers, PAIRS)
    assert torch.allclose(classifiers.accuracy(layers), theirs.accuracy(layers), atol=0.005)


def test_exchanging_the_layers_of_a_pair_turns_the_classifier():
    classifiers = BatchedLogistic(**TIGHT).fit(clouds(), ((0, 1), (1, 0)))
    torch.testing.assert_close(classifiers.weights[0], -classifiers.weights[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pairs", [((0, 1),), PAIRS[::-1]])
def test_what_else_is_fitted_makes_no_difference(pairs: Sequence[tuple[int, int]]):
    layers = clouds()
    together = BatchedLogistic(**TIGHT).fit(layers, PAIRS)
    for batch_bytes in (1, 2**30):
        found = BatchedLogistic(batch_bytes=batch_bytes, **TIGHT).fit(layers, pairs)
        for pair, weights in zip(pairs, found.weights, strict=True):
            torch.testing.assert_close(weights, together.weights[PAIRS.index(pair)], rtol=1e-5, atol=1e-7)


def test_the_objective_has_no_slope_at_the_solution():
    layers = clouds().requires_grad_(False)
    classifiers = BatchedLogistic(**TIGHT).fit(layers, PAIRS)
    for (a, b), raw, intercept in zip(PAIRS, classifiers.weights, classifiers.intercepts, strict=True):
        samples = torch.cat([layers[a], layers[b]])
        mean, deviation = samples.mean(dim=0), samples.std(dim=0, correction=0)
        weights = (raw * deviation).requires_grad_()
        scores = (samples - mean) / deviation @ weights + intercept + raw @ mean
        signs = 2.0 * layer_labels(layers, [(a, b)]).flatten() - 1
        loss = torch.nn.functional.softplus(-signs * scores).sum() + weights.square().sum() / 2
        (slope,) = torch.autograd.grad(loss, weights)
        assert float(slope.abs().max()) < 1e-8 * len(samples)


def test_single_precision_is_good_enough():
    layers = clouds(samples=1000, apart=0.3)
    double, single = (BatchedLogistic().fit(x, PAIRS).accuracy(x) for x in (layers, layers.float()))
    assert torch.allclose(double, single, atol=0.005)


def test_the_global_random_state_stays_as_it_was():
    before = torch.random.get_rng_state()
    BatchedLogistic().fit(clouds(), PAIRS)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("solver", [BatchedLogistic, SklearnLogistic])
def test_a_fit_that_does_not_converge_says_how_many(
    solver: type[BatchedLogistic] | type[SklearnLogistic], caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        solver(max_iterations=2, **TIGHT).fit(clouds(), PAIRS)
    assert "3 of 3 logistic regressions have not converged after 2 iterations" in caplog.text


def test_a_fit_that_converges_is_silent(caplog: pytest.LogCaptureFixture):
    BatchedLogistic().fit(clouds(), PAIRS)
    assert not caplog.records


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_activations_that_are_no_numbers_are_refused(value: float):
    layers = clouds()
    layers[1, 5, 2] = value
    with pytest.raises(NumericsError, match="NaN or infinity"):
        BatchedLogistic().fit(layers, PAIRS)


def test_a_sample_that_is_nan_counts_as_misclassified():
    layers = clouds(apart=20.0)
    classifiers = BatchedLogistic().fit(layers, PAIRS)
    layers[1, :30] = torch.nan
    assert classifiers.accuracy(layers).tolist() == pytest.approx([0.95, 1.0, 0.95])


def test_senseless_options_are_refused():
    with pytest.raises(ConfigError, match=r"inverse_penalty=0\.0"):
        BatchedLogistic(inverse_penalty=0.0)

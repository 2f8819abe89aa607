"""Targets of PMET and LTI, and the settings that published cases do not reach, against the plain path."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from editors.base import Targets
from editors.data import Fact
from editors.errors import ConfigError
from editors.locate.targets import TargetOptimizer
from editors.methods.pmet import JointTargets
from editors.models.model import Model
from editors.regularizers.base import Regularizer
from editors.regularizers.mpes import MPES
from tests import plain
from tests.editors.cases import SHORT, distilled, make_lti, make_pmet
from tests.editors.locate.test_targets import CLOSE, EXACT, REACHABLE
from tests.tiny import FACTS, TEMPLATES, optimizer, tiny_model

SOME = pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
WITH_A_NORM = pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "olmo2"])
NONE = Regularizer()
REACHING = {"steps": 15, "learning_rate": 0.1, "decay": 0.0}
"""Enough steps for the targets of REACHABLE to become the first choice, one after another."""


def find(model: Model, settings: TargetOptimizer, facts: Sequence[Fact], stop: Regularizer = NONE) -> Targets:
    return settings.find(model, facts, TEMPLATES, [1], stop)


@WITH_A_NORM
@pytest.mark.parametrize("loss_layer", [None, 2])
def test_joint_targets_are_those_of_the_plain_path(family, loss_layer):
    model, settings = tiny_model(family), JointTargets(**SHORT, loss_layer=loss_layer)
    for fact, vector in zip(FACTS, find(model, settings, FACTS).vectors[:, 0], strict=True):
        expected = plain.joint_target(model, fact, TEMPLATES, 1, settings)
        torch.testing.assert_close(vector, expected, **CLOSE.get(family, EXACT))


@SOME
@pytest.mark.parametrize("drift_threshold", [0.0, 0.01, 10.0])
def test_joint_targets_weaken_their_loss_at_the_first_choice(family, drift_threshold):
    """They stop there if the anchor stayed."""
    model, settings = tiny_model(family), JointTargets(**(SHORT | REACHING), drift_threshold=drift_threshold)
    found = find(model, settings, REACHABLE)
    for fact, vector in zip(REACHABLE, found.vectors[:, 0], strict=True):
        expected = plain.joint_target(model, fact, TEMPLATES, 1, settings)
        torch.testing.assert_close(vector, expected, rtol=1e-6, atol=1e-7)  # Adam magnifies small gradients
    if drift_threshold == 0.0:
        assert found.steps.max() == 14, "the weakened loss continues"
    if drift_threshold == 10.0:
        assert found.steps.min() < 14, "the first choice is enough"


@WITH_A_NORM
@pytest.mark.parametrize("loss_layer", [None, 2])
def test_distilled_targets_are_those_of_the_plain_path(family, loss_layer):
    model = tiny_model(family)
    settings = distilled(
        nll_weight=0.3, last_kl_weight=0.7, middle_kl_weight=0.5, kl_weight=0.1, loss_layer=loss_layer
    )
    for fact, vector in zip(FACTS, find(model, settings, FACTS).vectors[:, 0], strict=True):
        expected = plain.distilled_target(model, fact, TEMPLATES, 1, settings)
        torch.testing.assert_close(vector, expected, **CLOSE.get(family, EXACT))


@pytest.mark.parametrize("name", ["last_kl_weight", "middle_kl_weight", "nll_weight"])
def test_every_term_of_distillation_counts(name):
    model, settings = tiny_model(), distilled(last_kl_weight=0.5, middle_kl_weight=0.5)
    one, other = (find(model, each, FACTS).vectors for each in (settings, replace(settings, **{name: 0.1})))
    assert (one - other).norm() > 1e-3 * one.norm()


def test_an_unreachable_middle_block_of_the_teacher_is_refused():
    for wrong in (1, 4):
        with pytest.raises(ConfigError, match=rf"middle_layer={wrong} has to lie above"):
            find(tiny_model(), distilled(middle_layer=wrong), FACTS)
    with pytest.raises(ConfigError, match=r"middle_layer=3 .* not above block 2"):
        find(tiny_model(), distilled(middle_layer=3, loss_layer=2), FACTS)


@SOME
def test_the_likelihood_can_be_read_below_the_top(family):
    model, settings = tiny_model(family), optimizer(loss_layer=2)
    found = find(model, settings, FACTS).vectors
    for fact, vector in zip(FACTS, found[:, 0], strict=True):
        expected = plain.target(model, fact, TEMPLATES, 1, settings)
        torch.testing.assert_close(vector, expected, **CLOSE.get(family, EXACT))
    assert (found - find(model, optimizer(), FACTS).vectors).norm() > 1e-3 * found.norm()


@pytest.mark.parametrize("wrong", [0, 4, -1])
def test_an_unreachable_loss_layer_is_refused(wrong):
    """The model has no such block, or the shift does not reach it."""
    with pytest.raises(
        ConfigError, match=rf"targets\.loss_layer={wrong} has to lie above .*\(\.\.1\) and below 4"
    ):
        find(tiny_model(), optimizer(loss_layer=wrong), FACTS)


def test_mpes_on_all_rows_watches_the_bare_prompt_too():
    model, settings = tiny_model(), optimizer(**(REACHING | {"max_norm_ratio": 9.0}))
    found = find(model, settings, REACHABLE, MPES(hits=2, rows="all"))
    for fact, vector in zip(REACHABLE, found.vectors[:, 0], strict=True):
        expected = plain.target(model, fact, TEMPLATES, 1, settings, hits=-2)
        torch.testing.assert_close(vector, expected, **EXACT)
    prefixed = find(model, settings, REACHABLE, MPES(hits=2))
    assert (found.steps >= prefixed.steps).all()


@SOME
def test_pmet_inserts_the_residual_of_the_mlp_by_square_roots(family):
    model = tiny_model(family)
    made = make_pmet(model, layers=[0, 2])
    made.prepare(model)
    edit = made.edit(model, FACTS)
    kept = {layer: 0.5 * made.moments.load(model, [layer])[layer] for layer in (0, 2)}
    vectors = torch.stack([plain.joint_target(model, fact, TEMPLATES, 2, made.targets) for fact in FACTS])
    expected = plain.insert(model, FACTS, TEMPLATES, [0, 2], kept, vectors, "mlp_down", 0.5)
    for site, delta in edit.update.items():
        torch.testing.assert_close(delta.dense(), expected[site.layer], rtol=1e-5, atol=1e-7)


def test_lti_inserts_as_memit_does():
    model = tiny_model("llama")
    made = make_lti(model)
    made.prepare(model)
    edit = made.edit(model, FACTS)
    kept = {layer: 0.5 * made.moments.load(model, [layer])[layer] for layer in (0, 1)}
    vectors = torch.stack([plain.distilled_target(model, fact, TEMPLATES, 1, made.targets) for fact in FACTS])
    expected = plain.insert(model, FACTS, TEMPLATES, [0, 1], kept, vectors)
    for site, delta in edit.update.items():
        torch.testing.assert_close(delta.dense(), expected[site.layer])

"""Functional drift: energies by hand, what a drift does on keys that occur, and what reaches the output."""

from typing import cast

import pytest
import torch

from analysis.stages.base import Observation, compare
from analysis.stages.functional import FunctionalDrift
from analysis.stages.reference import Reference
from editors.models.hooks import capture
from editors.models.model import Model
from editors.updates import Site
from tests.analysis.stages.test_activations import TEXTS
from tests.tiny import FACTS, FAMILIES, tiny_model

SITE = Site("mlp_down", 1)
EXPOSURE, WHOLE = f"norm/functional/{SITE}", "norm/functional/edited"
REACH, ALIGNMENT = "norm/functional_reach/edited", "norm/functional_alignment/edited"
DIVERGENCE = "norm/functional_divergence/edited"


def moved(drift: torch.Tensor, *, site: Site = SITE, family: str = "llama") -> Model:
    model = tiny_model(family)
    model.write(site, model.weight(*site) + drift)
    return model


def measured(edited: Model, family: str = "llama", unedited: Model | None = None) -> dict[str, float]:
    stage = FunctionalDrift(texts=TEXTS)
    return cast("dict[str, float]", compare([stage], unedited or tiny_model(family), edited))


def keys(model: Model, site: Site = SITE) -> torch.Tensor:
    """The keys of a matrix at all tokens of the text but the first of each document."""
    rows = []
    for ids in TEXTS.read(model):
        with capture(inputs={site: model.module(*site)}) as captured, torch.no_grad():
            model.hidden(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
        rows.append(captured[site][0, 1:])
    return torch.cat(rows)


def noise(seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    weight = tiny_model("llama").weight(*SITE)
    return scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["mlp_down", "attn_v"])
def test_a_matrix_grown_by_a_fifth_has_a_functional_drift_of_a_fifth(family: str, name: str):
    site = Site(name, 0)
    weight = tiny_model(family).weight(*site)
    result = measured(moved(0.2 * weight, site=site, family=family), family)
    assert result[f"norm/functional/{site}"] == pytest.approx(0.2, rel=1e-5)
    assert result[WHOLE] == result[f"norm/functional/{site}"]


def test_the_exposure_is_that_of_the_equation_on_keys_of_the_unedited_model():
    drift, unedited = noise(), tiny_model("llama")
    inputs = keys(unedited).double()
    by_hand = (inputs @ drift.double().T).norm() / (inputs @ unedited.weight(*SITE).double().T).norm()
    assert measured(moved(drift))[EXPOSURE] == pytest.approx(float(by_hand), rel=1e-5)


def test_the_drift_of_lower_blocks_does_not_change_the_exposure_of_higher_ones():
    drift, lower = noise(), Site("mlp_down", 0)
    alone, both = moved(drift), moved(drift)
    both.write(lower, 3 * both.weight(*lower))
    result = measured(both)
    assert result[EXPOSURE] == pytest.approx(measured(alone)[EXPOSURE], rel=1e-5)
    assert result[WHOLE] == pytest.approx((2**2 + result[EXPOSURE] ** 2) ** 0.5, rel=1e-5)


def test_a_large_drift_on_keys_that_do_not_occur_does_nothing():
    inputs = keys(tiny_model("llama")).double()
    rank = int(torch.linalg.matrix_rank(inputs))
    directions = torch.linalg.svd(inputs, full_matrices=True).Vh[rank:]
    if not len(directions):
        directions = torch.linalg.svd(inputs).Vh[-1:]
    drift = torch.outer(noise()[:, 0].double(), directions[0])
    drift = (drift * tiny_model("llama").weight(*SITE).norm() / drift.norm()).float()
    usual = noise()
    usual *= drift.norm() / usual.norm()
    quiet, loud = measured(moved(drift)), measured(moved(usual))
    assert quiet[EXPOSURE] < 0.2 * loud[EXPOSURE]
    assert quiet[REACH] < 0.5 * loud[REACH] and quiet[DIVERGENCE] < 0.2 * loud[DIVERGENCE]


def test_the_reach_is_the_derivative_of_the_last_hidden_state():
    drift, step = noise(), 1e-3
    unedited = tiny_model("llama")
    documents = TEXTS.read(unedited)
    rows = [(torch.tensor([d]), torch.ones(1, len(d), dtype=torch.bool)) for d in documents]
    near = moved(step * drift)
    with torch.no_grad():
        before = torch.cat([unedited.hidden(*row)[0, 1:] for row in rows]).double()
        after = torch.cat([near.hidden(*row)[0, 1:] for row in rows]).double()
    by_hand = float((after - before).norm() / before.norm()) / step
    result = measured(moved(drift))
    assert result[REACH] == pytest.approx(by_hand, rel=2e-3)
    assert result[ALIGNMENT] == pytest.approx(result[REACH] / result[WHOLE])


def test_the_divergence_is_that_of_the_two_predictions():
    edited, unedited, total, count = moved(noise()), tiny_model("llama"), 0.0, 0
    for document in TEXTS.read(unedited):
        row = torch.tensor([document]), torch.ones(1, len(document), dtype=torch.bool)
        with torch.no_grad():
            old, new = (m.logits(m.hidden(*row)[0, 1:]).log_softmax(-1) for m in (unedited, edited))
        total += float(torch.nn.functional.kl_div(new, old, reduction="sum", log_target=True))
        count += len(document) - 1
    assert measured(edited)[DIVERGENCE] == pytest.approx(total / count, rel=1e-4)


def test_subjects_of_untouched_facts_have_a_row_of_their_own():
    unedited, edited = tiny_model("llama"), moved(noise())
    stage = FunctionalDrift(texts=TEXTS, facts=2)
    stage.prepare(unedited)
    moment = Observation(count=1, total=1, untouched=FACTS, edited=[SITE], reference=Reference(unedited))
    result = cast("dict[str, float]", stage.measure(edited, moment))
    ends = []
    for fact in FACTS[:2]:
        ids, mask = unedited.encode([fact.statement[: fact.prompt.index("{}") + len(fact.subject)]])
        with capture(inputs={SITE: unedited.module(*SITE)}) as captured, torch.no_grad():
            unedited.hidden(ids, mask)
        ends.append(captured[SITE][0, -1])
    inputs = torch.stack(ends).double()
    by_hand = (inputs @ noise().double().T).norm() / (inputs @ unedited.weight(*SITE).double().T).norm()
    assert result[f"norm/functional_subjects/{SITE}"] == pytest.approx(float(by_hand), rel=1e-4)
    assert result["norm/functional_subjects/edited"] == result[f"norm/functional_subjects/{SITE}"]


def test_nothing_moved_is_zero_without_an_alignment():
    unedited = tiny_model("llama")
    stage = FunctionalDrift(texts=TEXTS)
    stage.prepare(unedited)
    result = stage.measure(
        unedited, Observation(count=0, total=1, edited=[SITE], reference=Reference(unedited))
    )
    assert result == {EXPOSURE: 0.0, WHOLE: 0.0, REACH: 0.0, DIVERGENCE: 0.0}


def test_half_precision_is_measured_from_the_weights_that_are_read():
    unedited, edited = tiny_model("llama"), tiny_model("llama")
    for model in (unedited, edited):
        model.hf.bfloat16()
    edited.write(SITE, 1.25 * edited.weight(*SITE))
    result = measured(edited, unedited=unedited)
    assert result[EXPOSURE] == pytest.approx(0.25, rel=1e-2)
    assert 0 < result[REACH] < 1

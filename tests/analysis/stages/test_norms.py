"""Norms against numpy, ratios of a model that was not touched, the split of growth, norms from factors."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from analysis.stages.base import Cadence, Measurement, Observation
from analysis.stages.norms import Norms
from analysis.stages.reference import Reference
from editors.errors import ConfigError
from editors.models.model import Model
from editors.updates import Delta, Site
from tests.tiny import FAMILIES, tiny_model

SITE = Site("mlp_down", 1)
NEVER = Cadence(at=())


def prepared(model: Model, **choices: Cadence | bool) -> Norms:
    stage = Norms(**choices)
    stage.prepare(model)
    return stage


def measured(model: Model, reference: Reference | None = None, **more: object) -> Measurement:
    seen = {"count": 1, "total": 1, "reference": reference or Reference(model)} | more
    return prepared(model).measure(model, Observation(**seen))


def low_rank(model: Model, seed: int, rank: int = 2) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = model.weight(*SITE).shape
    left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in (rows, columns))
    return Delta(left=left, right=right)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_numpy_for_every_site_of_every_block(family: str):
    model = tiny_model(family)
    found = measured(model)
    for layer in range(model.depth):
        for site in model.sites:
            expected = np.linalg.norm(model.weight(site, layer).numpy())
            assert found[f"norm/frobenius/{site}.{layer:02d}"] == pytest.approx(expected)
            assert found[f"norm/frobenius_ratio/{site}.{layer:02d}"] == 1
            assert found[f"norm/distance/{site}.{layer:02d}"] == 0
    assert all(value == 1 for key, value in found.items() if "ratio" in key)


def test_doubling_a_matrix_doubles_its_ratio_and_leaves_the_others_at_one():
    model = tiny_model()
    reference = Reference(model)
    model.write(SITE, 2 * model.weight(*SITE))
    found = measured(model, reference, edited=[SITE])
    assert found[f"norm/frobenius_ratio/{SITE}"] == pytest.approx(2)
    assert found[f"norm/distance/{SITE}"] == pytest.approx(1)
    assert found["norm/frobenius_ratio/edited"] == pytest.approx(2)
    assert found["norm/frobenius_ratio/static"] == pytest.approx(1)
    assert found["norm/frobenius_ratio/attention"] == 1
    assert 1 < found["norm/frobenius_ratio/mlp"] < 2


def test_a_matrix_of_zeros_has_a_ratio_of_one_until_it_is_written():
    model = tiny_model()
    model.write(SITE, torch.zeros_like(model.weight(*SITE)))
    reference = Reference(model)
    found = measured(model, reference, edited=[SITE])
    keys = [f"norm/{quantity}/{SITE}" for quantity in ("frobenius_ratio", "distance")]
    assert [found[key] for key in keys] == [1, 0] and found["norm/frobenius_ratio/edited"] == 1
    model.write(SITE, torch.ones_like(model.weight(*SITE)))
    found = measured(model, reference, edited=[SITE])
    assert [found[key] for key in (*keys, "norm/frobenius_ratio/edited")] == [np.inf] * 3


def test_growth_terms_of_a_rotation_cancel():
    """The terms are those of the equation, and add up to no growth if the matrix only turns."""
    model = tiny_model()
    reference, before = Reference(model), model.weight(*SITE).clone()
    rotation, _ = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64))
    delta = Delta(left=rotation @ before - before)
    model.apply({SITE: delta})
    found = measured(model, reference, update={SITE: delta}, edited=[SITE])
    cross, square = found[f"norm/growth_cross/{SITE}"], found[f"norm/growth_square/{SITE}"]
    assert found[f"norm/delta/{SITE}"] == pytest.approx(float(delta.dense().norm()))
    assert cross == pytest.approx(2 * float((before * delta.dense()).sum()))
    assert cross + square == pytest.approx(0, abs=1e-9 * square)


def test_norms_from_factors_are_the_true_norms_at_every_step():
    """Between whole measurements only edited sites are measured."""
    model = tiny_model()
    stage, reference = prepared(model, whole=NEVER), Reference(model)
    stage.measure(model, Observation(count=0, total=9, edited=[SITE], reference=reference))
    for step in range(1, 6):
        update = {SITE: low_rank(model, seed=step)}
        model.apply(update)
        found = stage.measure(
            model,
            Observation(
                count=step, before=step - 1, total=9, edited=[SITE], update=update, reference=reference
            ),
        )
        assert found[f"norm/frobenius/{SITE}"] == pytest.approx(float(model.weight(*SITE).norm()), rel=1e-12)
        assert "norm/frobenius/attn_q.00" not in found


def test_a_step_that_was_not_seen_leads_to_a_true_norm():
    model = tiny_model()
    stage, reference = prepared(model, whole=NEVER), Reference(model)
    stage.measure(model, Observation(count=0, total=9, edited=[SITE], reference=reference))
    model.write(SITE, 3 * model.weight(*SITE))  # a step between the two measurements
    update = {SITE: low_rank(model, seed=1)}
    model.apply(update)
    seen = Observation(count=2, before=1, total=9, edited=[SITE], update=update, reference=reference)
    expected = float(model.weight(*SITE).norm())
    assert stage.measure(model, seen)[f"norm/frobenius/{SITE}"] == pytest.approx(expected, rel=1e-12)


def test_a_part_that_follows_another_one_starts_from_a_true_norm():
    model = tiny_model()
    stage, reference = prepared(model, whole=NEVER), Reference(model)
    stage.measure(model, Observation(count=1, total=1, unit="steps", edited=[SITE], reference=reference))
    model.write(SITE, 3 * model.weight(*SITE))  # what the first part did after it was measured
    update = {SITE: low_rank(model, seed=1)}
    model.apply(update)
    seen = Observation(count=2, before=1, total=9, part=1, edited=[SITE], update=update, reference=reference)
    found, expected = stage.measure(model, seen), float(model.weight(*SITE).norm())
    assert found[f"norm/frobenius/{SITE}"] == pytest.approx(expected, rel=1e-12)
    assert f"norm/update_cosine/{SITE}" not in found


@pytest.mark.parametrize(("factor", "cosine"), [(2.0, 1.0), (-0.5, -1.0)])
def test_successive_updates_along_one_line_have_cosine_plus_or_minus_1(factor: float, cosine: float):
    model, stage = tiny_model(), Norms()
    stage.prepare(model)
    first, reference = low_rank(model, seed=1), Reference(model)
    for step, delta in enumerate((first, Delta(left=factor * first.dense())), start=1):
        seen = Observation(
            count=step, before=step - 1, total=9, edited=[SITE], update={SITE: delta}, reference=reference
        )
        found = stage.measure(model, seen)
    assert found[f"norm/update_cosine/{SITE}"] == pytest.approx(cosine)


def test_a_cosine_is_measured_only_between_consecutive_steps():
    model, stage = tiny_model(), Norms()
    stage.prepare(model)
    reference = Reference(model)
    for edits in (1, 3):
        update = {SITE: low_rank(model, seed=edits)}
        seen = Observation(
            count=edits, before=edits - 1, total=9, edited=[SITE], update=update, reference=reference
        )
        found = stage.measure(model, seen)
    assert f"norm/update_cosine/{SITE}" not in found


def trained(model: Model, stage: Norms, *, told: bool, counts: Sequence[int] = range(5)) -> list[Measurement]:
    """What the stage says of seeded steps, which are told as updates or only seen in the weights."""
    reference, rows = Reference(model), []
    for count in counts:
        update = {SITE: low_rank(model, seed=count)} if count else {}
        model.apply(update)
        seen = Observation(
            count=count,
            before=max(count - 1, 0),
            total=9,
            changes=count,
            edited=[SITE],
            update=update if told else {},
            reference=reference,
        )
        rows.append(stage.measure(model, seen))
    return rows


@pytest.mark.parametrize("told", [True, False])
def test_rho_is_that_of_the_law_of_growth(told: bool):
    model = tiny_model()
    first = float(model.weight(*SITE).norm()) ** 2
    *_, last = trained(model, prepared(model, steps=not told), told=told)
    lengths = sum(low_rank(model, seed=count).square() for count in range(1, 5))
    now = first + (1 + last[f"norm/growth_rho/{SITE}"]) * lengths
    assert now == pytest.approx(float(model.weight(*SITE).norm()) ** 2, rel=1e-9)
    assert last["norm/growth_rho/edited"] == last[f"norm/growth_rho/{SITE}"]


def test_steps_of_a_training_are_split_as_those_of_an_editor():
    told = trained(one := tiny_model(), prepared(one), told=True)
    seen = trained(other := tiny_model(), prepared(other, steps=True), told=False)
    for row, twin in zip(told, seen, strict=True):
        assert set(row) == set(twin)
        assert all(twin[key] == pytest.approx(value, rel=1e-9, abs=1e-9) for key, value in row.items())
    assert "norm/growth_rho/edited" in told[-1] and f"norm/growth_cross/{SITE}" in told[-1]


def test_there_is_no_rho_once_a_step_was_missed():
    model = tiny_model()
    rows = trained(model, prepared(model), told=True, counts=[0, 1, 3, 4])
    assert ["norm/growth_rho/edited" in row for row in rows] == [False, True, False, False]


@pytest.mark.parametrize("told", [True, False])
def test_growth_goes_on_after_a_checkpoint(told: bool):
    model = tiny_model()
    straight = trained(model, prepared(model, steps=not told), told=told)
    model = tiny_model()
    reference, stage = Reference(model), prepared(model, steps=not told)
    for count in range(5):
        if count == 3:
            memory, stage = stage.memory(), prepared(model, steps=not told)
            stage.recall(model, {name: value.clone() for name, value in memory.items()})
        update = {SITE: low_rank(model, seed=count)} if count else {}
        model.apply(update)
        seen = {"update": update} if told else {}
        moment = Observation(
            count=count, before=max(count - 1, 0), total=9, changes=count, edited=[SITE], reference=reference,
            **seen,
        )  # fmt: skip
        assert stage.measure(model, moment) == straight[count]


@pytest.mark.parametrize(
    ("cadence", "moments"),
    [
        (Cadence(every=3), [0, 3, 6, 9, 10]),
        (Cadence(), [0, 10]),
        (Cadence(at=(1, 5)), [0, 1, 5, 10]),
    ],
)
def test_a_cadence_always_takes_start_and_end(cadence: Cadence, moments: list[int]):
    assert [n for n in range(11) if cadence.due(max(n - 1, 0), n, 10)] == moments


def test_a_batch_that_steps_over_a_point_is_measured_at_its_end():
    assert Cadence(every=5).due(4, 8, 100)
    assert not Cadence(every=5).due(5, 8, 100)
    assert Cadence(at=(6,)).due(4, 8, 100)


def test_negative_counts_are_refused():
    with pytest.raises(ConfigError, match="every=-1"):
        Cadence(every=-1)

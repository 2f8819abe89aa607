"""What each control keeps of the real edits, and what it does not."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from editors.controls.controls import (
    Control,
    DriftKept,
    GrowAll,
    NormKept,
    RandomDirection,
    Scaled,
    Spread,
)
from editors.controls.norm_rescaled import NormRescaled, norm_after
from editors.controls.recorded_edits import RecordedEdits
from editors.controls.rotated import Rotated
from editors.controls.whitened import WhitenedDirection
from editors.errors import ConfigError, DataError
from editors.models.model import Model
from editors.moments.collected import CollectedMoments
from editors.update_files import read_updates
from editors.updates import Delta, Site, WeightUpdate
from tests.editors.cases import bits, perform, same_bits
from tests.editors.controls.test_recorded_edits import keep
from tests.second_device import SECOND, SecondDevice, moved
from tests.tiny import FACTS, FAMILIES, TEXT, tiny_model

SITES = (Site("mlp_down", 1), Site("mlp_down", 2))
EVERY = pytest.mark.parametrize("family", FAMILIES)


class Lines:
    """A corpus of given documents."""

    def __init__(self, texts: Sequence[str] = TEXT) -> None:
        self.texts = texts
        self.label = "lines"

    def identity(self) -> str:
        return "lines"

    def __iter__(self):
        return iter(self.texts)


def whitened(folder: Path) -> WhitenedDirection:
    """The control with second moments of the lines."""
    moments = CollectedMoments(corpus=Lines(), tokens=80, folder=str(folder / "moments"))
    return WhitenedDirection(moments=moments)


CONTROLS: dict[str, Callable[[Path], Control]] = {
    "real": lambda _: Control(),
    "random_direction": lambda _: RandomDirection(),
    "norm_kept": lambda _: NormKept(),
    "scaled": lambda _: Scaled(),
    "grow_all": lambda _: GrowAll(),
    "drift_kept": lambda _: DriftKept(),
    "rotated": lambda _: Rotated(),
    "spread": lambda _: Spread(),
    "norm_rescaled": lambda _: NormRescaled(corpus=Lines(), tokens=80),
    "whitened_direction": whitened,
}
EACH = pytest.mark.parametrize("control", CONTROLS)


def updates(model: Model) -> list[WeightUpdate]:
    """One for each fact: thin, thin, dense; as long as a third of the matrix."""
    made: list[WeightUpdate] = []
    for seed in range(len(FACTS)):
        generator = torch.Generator().manual_seed(seed)
        update: WeightUpdate = {}
        for site in SITES:
            weight = model.weight(*site)
            drawn = torch.randn(2, *weight.shape, generator=generator, dtype=weight.dtype)
            delta = Delta(left=drawn[0, :, :2], right=drawn[1, :2].T) if seed < 2 else Delta(left=drawn[0])
            update[site] = Delta(left=delta.left * float(weight.norm() / 3 / delta.norm()), right=delta.right)
        made.append(update)
    return made


def replayed(folder: Path, model: Model, control: Control) -> RecordedEdits:
    """The recorded edits of the updates, prepared on the model."""
    keep(folder, *(((fact.id,), update) for fact, update in zip(FACTS, updates(model), strict=True)))
    made = RecordedEdits(batches=read_updates(folder), control=control)
    made.prepare(model)
    return made


def steps(folder: Path, family: str, control: Control) -> list[tuple[WeightUpdate, WeightUpdate, Model]]:
    """After every edit: the recorded update, what was applied instead, the model."""
    model = tiny_model(family)
    made = replayed(folder, model, control)
    seen = []
    for fact, update in zip(FACTS, updates(tiny_model(family)), strict=True):
        edit = made.edit(model, [fact])
        assert set(edit.update) == set(made.sites)
        model.apply(edit.update)
        made.commit(model, [fact], edit)
        seen.append((update, edit.update, model))
    return seen


def norm(model: Model, site: Site) -> float:
    return float(model.current(site).double().norm())


@EVERY
def test_a_random_direction_has_norm_and_rank_of_the_real_one(family: str, tmp_path: Path):
    for real, applied, _ in steps(tmp_path, family, RandomDirection()):
        for site, delta in applied.items():
            assert delta.norm() == pytest.approx(real[site].norm(), rel=1e-12)
            assert delta.left.shape == real[site].left.shape and delta.dtype == real[site].dtype
            cosine = delta.dot(real[site]) / real[site].square()
            assert abs(cosine) < 0.3


def test_random_directions_differ_by_seed_edit_and_site():
    model = tiny_model()
    first = updates(model)[0]
    drawn = [
        RandomDirection(seed=seed).act(model, first, edits)[site].dense()
        for seed, edits, site in [(0, 0, SITES[0]), (0, 1, SITES[0]), (1, 0, SITES[0]), (0, 0, SITES[1])]
    ]
    assert all(not torch.allclose(one, other) for i, one in enumerate(drawn) for other in drawn[:i])


@EVERY
def test_a_rotation_is_as_long_as_the_real_step_and_keeps_all_singular_values(family: str, tmp_path: Path):
    unedited = tiny_model(family)
    for real, applied, model in steps(tmp_path, family, Rotated()):
        for site, delta in applied.items():
            length = min(real[site].norm(), 2 * norm(unedited, site))
            assert delta.norm() == pytest.approx(length, rel=1e-9)
            before, now = (torch.linalg.svdvals(each.current(site).double()) for each in (unedited, model))
            torch.testing.assert_close(now, before, rtol=1e-9, atol=1e-12)
            keys = torch.randn(now.shape[0], unedited.current(site).shape[1], dtype=torch.float64)
            outputs = [(keys @ each.current(site).double().T).norm(dim=1) for each in (unedited, model)]
            torch.testing.assert_close(*outputs)


def test_rotations_differ_by_seed_edit_and_site_and_leave_one_direction_of_an_odd_number():
    model = tiny_model()
    first = updates(model)[0]
    drawn = [
        Rotated(seed=seed).act(model, first, edits)[site].dense()
        for seed, edits, site in [(0, 0, SITES[0]), (0, 1, SITES[0]), (1, 0, SITES[0]), (0, 0, SITES[1])]
    ]
    assert all(not torch.allclose(one, other) for i, one in enumerate(drawn) for other in drawn[:i])
    weight = torch.eye(5, dtype=torch.float64)
    delta = Rotated()._turn(weight, SITES[0], Delta(left=0.5 * weight), 0)
    turned = weight + delta.dense()
    torch.testing.assert_close(turned @ turned.T, weight)
    assert delta.norm() == pytest.approx(0.5 * 5**0.5)
    assert int((torch.linalg.eigvals(turned) - 1).abs().min() < 1e-9)


@EVERY
def test_norm_kept_keeps_the_norm_and_the_direction(family: str, tmp_path: Path):
    model, fresh = tiny_model(family), tiny_model(family)
    made = replayed(tmp_path, model, NormKept())
    for number, (fact, update) in enumerate(zip(FACTS, updates(fresh), strict=True)):
        perform(model, made, [fact])
        for site in SITES:
            assert norm(model, site) == pytest.approx(norm(fresh, site), rel=1e-12)
            if number == 0:
                real = fresh.current(site) + update[site].dense()
                torch.testing.assert_close(model.current(site) * (real.norm() / norm(fresh, site)), real)


@EVERY
def test_scaled_has_the_real_norm_and_the_unedited_direction(family: str, tmp_path: Path):
    """The norm is that of the real edits, the direction that of the unedited matrix."""
    fresh, real = tiny_model(family), tiny_model(family)
    model = tiny_model(family)
    made = replayed(tmp_path, model, Scaled())
    for fact, update in zip(FACTS, updates(fresh), strict=True):
        perform(model, made, [fact])
        real.apply(update)
        for site in SITES:
            ratio = norm(real, site) / norm(fresh, site)
            assert ratio > 1.01 or ratio < 0.99
            torch.testing.assert_close(model.current(site), fresh.current(site) * ratio)


@EVERY
def test_spread_adds_the_same_to_every_block_and_as_much_in_all(family: str, tmp_path: Path):
    fresh = tiny_model(family)
    for real, applied, model in steps(tmp_path, family, Spread()):
        assert {site.layer for site in applied} == set(range(model.depth))
        together = sum(delta.square() for delta in real.values())
        assert sum(delta.square() for delta in applied.values()) == pytest.approx(together, rel=1e-10)
        first, *others = (delta.dense() for delta in applied.values())
        assert all(torch.equal(first, other) for other in others)
        total = sum((delta.dense() for delta in real.values()), torch.zeros_like(first))
        assert float((first * total).sum()) == pytest.approx(float(first.norm() * total.norm()))
    alone = {SITES[0]: updates(fresh)[0][SITES[0]]}
    shared = Spread().act(fresh, alone, 0)[SITES[1]].dense()
    torch.testing.assert_close(shared, alone[SITES[0]].dense() / fresh.depth**0.5)


@EVERY
def test_grow_all_multiplies_every_block_by_the_growth_of_the_real_edits(family: str, tmp_path: Path):
    fresh, real, model = (tiny_model(family) for _ in range(3))
    made = replayed(tmp_path, model, GrowAll())
    for fact, update in zip(FACTS, updates(fresh), strict=True):
        perform(model, made, [fact])
        real.apply(update)
        stacked = [sum(norm(each, site) ** 2 for site in SITES) ** 0.5 for each in (real, fresh)]
        for layer in range(fresh.depth):
            site = Site("mlp_down", layer)
            torch.testing.assert_close(model.current(site), fresh.current(site) * (stacked[0] / stacked[1]))


@EVERY
def test_drift_kept_is_real_until_the_drift_is_too_long(family: str, tmp_path: Path):
    fresh, real, model = (tiny_model(family) for _ in range(3))
    made = replayed(tmp_path, model, DriftKept(distance=0.4))
    for number, (fact, update) in enumerate(zip(FACTS, updates(fresh), strict=True)):
        perform(model, made, [fact])
        real.apply(update)
        for site in SITES:
            drift, whole = (each.current(site) - fresh.current(site) for each in (model, real))
            length = float(drift.norm()) / norm(fresh, site)
            if number == 0:
                assert torch.equal(model.current(site), real.current(site))
            else:
                assert length == pytest.approx(0.4, rel=1e-6) and float(whole.norm()) > float(drift.norm())
            if number == 1:
                torch.testing.assert_close(drift / drift.norm(), whole / whole.norm())
    with pytest.raises(ConfigError, match="distance=0"):
        DriftKept(distance=0.0)


@EVERY
def test_a_whitened_direction_has_the_real_length_and_little_energy_on_keys(family: str, tmp_path: Path):
    model = tiny_model(family)
    control, plain = whitened(tmp_path), RandomDirection()
    control.prepare(model, SITES)
    moments = control.moments.load(model, [site.layer for site in SITES])
    for number, update in enumerate(updates(model)):
        quiet, loud = control.act(model, update, number), plain.act(model, update, number)
        for site, delta in quiet.items():
            assert delta.norm() == pytest.approx(update[site].norm(), rel=1e-6)
            assert delta.left.shape == update[site].left.shape
            energies = [
                float((change.dense().double() @ moments[site.layer] * change.dense().double()).sum())
                for change in (delta, loud[site])
            ]
            assert energies[0] < 0.2 * energies[1]


def test_second_moments_are_those_of_down_projections(tmp_path: Path):
    with pytest.raises(ConfigError, match="the run edits attn_o, but second moments"):
        whitened(tmp_path).prepare(tiny_model(), [Site("attn_o", 0)])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "olmo2"])
def test_norm_rescaled_keeps_the_mean_norm_that_the_next_norm_layer_writes(family: str, tmp_path: Path):
    model, real = tiny_model(family), tiny_model(family)
    control = CONTROLS["norm_rescaled"](tmp_path)
    assert isinstance(control, NormRescaled)
    before = bits(model)
    made = replayed(tmp_path, model, control)
    assert same_bits(model, before)
    unedited = {site.layer: control._output_norm(model, site.layer) for site in SITES}
    for fact, update in zip(FACTS, updates(real), strict=True):
        perform(model, made, [fact])
        real.apply(update)
    for site in SITES:
        assert torch.equal(model.current(site), real.current(site)), "the edits are the real ones"
        assert control._output_norm(real, site.layer) != pytest.approx(unedited[site.layer], rel=1e-6)
        precision = 1e-7 if family.startswith("gemma") else 1e-9  # gains of Gemma act in float32
        assert control._output_norm(model, site.layer) == pytest.approx(unedited[site.layer], rel=precision)
    control.put_back(model)
    assert same_bits(model, bits(real))


def test_norm_rescaled_is_refused_where_blocks_read_the_stream_without_a_norm(tmp_path: Path):
    model = tiny_model("olmo2")
    with pytest.raises(ConfigError, match=r"control=norm_rescaled .* tiny-olmo2 .*choose another control"):
        CONTROLS["norm_rescaled"](tmp_path).prepare(model, SITES)
    norm = norm_after(model, model.depth - 1)
    assert norm is model.hf.get_submodule("model.norm"), "the final norm is above the last block"


def test_above_the_last_block_stands_the_final_norm():
    model = tiny_model()
    assert norm_after(model, model.depth - 1) is model.hf.get_submodule("transformer.ln_f")
    assert norm_after(model, 0) is model.block(1).get_submodule("ln_1")


def test_a_text_without_tokens_is_refused():
    with pytest.raises(DataError, match="lines holds no text"):
        NormRescaled(corpus=Lines([])).prepare(tiny_model(), SITES)
    with pytest.raises(ConfigError, match="tokens=0"):
        NormRescaled(corpus=Lines(), tokens=0)


@EACH
def test_a_control_changes_nothing_before_its_update_is_applied(control: str, tmp_path: Path):
    model = tiny_model()
    before, rng = bits(model), torch.get_rng_state()
    made = replayed(tmp_path, model, CONTROLS[control](tmp_path))
    one, other = (made.edit(model, FACTS[:1]).update for _ in range(2))
    assert all(torch.equal(one[site].dense(), other[site].dense()) for site in one)
    assert same_bits(model, before) and torch.equal(rng, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


@EACH
def test_a_control_restored_from_its_state_goes_on_bit_for_bit(control: str, tmp_path: Path):
    model = tiny_model()
    made = replayed(tmp_path, model, CONTROLS[control](tmp_path))
    perform(model, made, FACTS[:1], FACTS[1:2])
    other = tiny_model()
    twin = replayed(tmp_path, other, CONTROLS[control](tmp_path))
    twin.load_state_dict({key: value.clone() for key, value in made.state_dict().items()})
    other.restore({site: model.current(site).clone() for site in made.sites})
    assert same_bits(other, bits(model))
    perform(model, made, FACTS[2:])
    perform(other, twin, FACTS[2:])
    assert same_bits(other, bits(model))


@EACH
def test_a_model_in_half_precision_can_be_replayed(control: str, tmp_path: Path):
    model = tiny_model(double=False)
    model.hf.bfloat16()
    perform(model, replayed(tmp_path, model, CONTROLS[control](tmp_path)), FACTS[:1])
    assert all(bool(value.isfinite().all()) for value in bits(model).values())


def last_applied(folder: Path, control: Control, device: SecondDevice | None = None) -> WeightUpdate:
    """The last of three edits, by a control restored from the state that the first two left on the disk."""
    model = tiny_model() if device is None else moved(tiny_model(), device)
    first = replayed(folder, model, control)
    twin = RecordedEdits(batches=first.batches, control=copy.deepcopy(control))
    twin.prepare(model)
    perform(model, first, FACTS[:1], FACTS[1:2])
    twin.load_state_dict({key: value.cpu() for key, value in first.state_dict().items()})
    return twin.edit(model, FACTS[2:]).update


@EACH
def test_a_control_stays_on_the_device_of_the_model(control: str, tmp_path: Path):
    expected = last_applied(tmp_path / "here", CONTROLS[control](tmp_path / "one"))
    with SecondDevice() as device:
        applied = last_applied(tmp_path / "there", CONTROLS[control](tmp_path / "two"), device)
        assert {delta.dense().device for delta in applied.values()} == {SECOND}
        for site, delta in expected.items():
            torch.testing.assert_close(applied[site].dense().cpu(), delta.dense(), rtol=1e-6, atol=1e-9)

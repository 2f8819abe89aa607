"""The LoRA editor is Adam on fresh adapters, leaves a plain model, and draws from its seed and its edits."""

from dataclasses import replace

import pytest
import torch

from editors.errors import ConfigError
from editors.methods.lora import LoRAEditing
from editors.models.gradients import Objective
from editors.models.model import Model
from editors.regularizers.mpes import MPES
from editors.regularizers.norm_reset import NormReset
from editors.updates import Delta, Site, factors, from_factors
from tests.editors.cases import bits, chance, make_lora, perform, same_bits
from tests.editors.methods.test_finetune import BOTH, EVERY, plain_loss
from tests.tiny import FACTS, tiny_model


def plain_lora(model: Model, settings: LoRAEditing, objective: Objective) -> dict[Site, torch.Tensor]:
    """The whole model with its adapters, as peft's own examples read."""
    adapters = replace(settings.adapters, seed=settings._seed(0)).attach(model)
    adam = torch.optim.Adam(adapters.peft.parameters(), lr=settings.learning_rate)
    for _ in range(settings.steps):
        for start in range(0, len(FACTS), settings.facts_at_once):
            part = FACTS[start : start + settings.facts_at_once]
            adam.zero_grad()
            torch.stack([plain_loss(model, fact, objective) for fact in part]).mean().backward()
            adam.step()
    return {site: delta.dense() for site, delta in adapters.products().items()}


@EVERY
@BOTH
def test_the_update_is_that_of_the_plain_loop(family, objective):
    settings = make_lora(tiny_model(), objective=objective, facts_at_once=2)
    found = settings.edit(tiny_model(family), FACTS).update
    expected = plain_lora(tiny_model(family), settings, objective)
    for site in settings.sites:
        torch.testing.assert_close(found[site].dense(), expected[site], rtol=0, atol=1e-7)


@EVERY
def test_the_model_is_a_plain_one_afterwards_with_all_of_its_bits(family):
    model = tiny_model(family)
    kinds, before = [(n, type(m)) for n, m in model.hf.named_modules()], bits(model)
    settings = make_lora(model, {"dropout": 0.2})
    rng = torch.get_rng_state()
    settings.edit(model, FACTS)
    assert torch.equal(rng, torch.get_rng_state())
    assert kinds == [(n, type(m)) for n, m in model.hf.named_modules()] and same_bits(model, before)
    assert not any(p.requires_grad for p in model.hf.parameters()) and not hasattr(model.hf, "peft_config")


def test_an_update_is_thin_and_is_stored_as_factors():
    update = make_lora(tiny_model()).edit(tiny_model(), FACTS).update
    for site, delta in update.items():
        assert delta.right is not None and delta.left.shape[1] == delta.right.shape[1] == 2
        assert torch.linalg.matrix_rank(delta.dense()) <= 2, site
    stored = from_factors(factors(update))
    assert all(torch.equal(stored[site].dense(), delta.dense()) for site, delta in update.items())


def same(one: dict[Site, Delta], other: dict[Site, Delta]) -> bool:
    return all(torch.equal(one[site].dense(), other[site].dense()) for site in one)


def test_draws_follow_from_the_seed_and_the_edits_so_far():
    def after(edits: int, seed: int = 0) -> dict[Site, Delta]:
        model = tiny_model()
        made = make_lora(model, {"dropout": 0.2, "seed": seed})
        made.load_state_dict({"edits": torch.tensor(edits)})
        return dict(made.edit(model, FACTS).update)

    assert same(after(3), after(3))
    assert not same(after(3), after(4)) and not same(after(3), after(3, seed=1))
    assert not same(after(1), after(0, seed=1))


def test_a_resumed_sequence_goes_on_with_the_same_bits_dropout_included():
    model = tiny_model()
    made = make_lora(model, {"dropout": 0.2})
    perform(model, made, FACTS[:1])
    half = {key: value.clone() for key, value in bits(model).items()}, made.state_dict()
    perform(model, made, FACTS[1:2], FACTS[2:])
    again = tiny_model()
    again.hf.load_state_dict(half[0])
    twin = make_lora(again, {"dropout": 0.2})
    twin.prepare(again)
    twin.load_state_dict(half[1])
    perform(again, twin, FACTS[1:2], FACTS[2:])
    assert same_bits(again, bits(model))


def test_with_dropout_the_facts_are_still_learnt():
    """The update differs from the one without dropout."""
    model = tiny_model()
    plain, dropped = (
        make_lora(model, {"dropout": share}, steps=20).edit(model, FACTS[:1]).update for share in (0.0, 0.3)
    )
    assert not same(dict(plain), dict(dropped))
    before = chance(model, FACTS[0])
    model.apply(dropped)
    assert chance(model, FACTS[0]) > before


def test_diagnostics_tell_steps_losses_and_drift():
    edit = make_lora(tiny_model(), facts_at_once=2).edit(tiny_model(), FACTS)
    assert edit.diagnostics["optimiser_steps"] == 12
    assert edit.diagnostics["loss_end"] < edit.diagnostics["loss_start"]
    whole = torch.cat([delta.dense().flatten() for delta in edit.update.values()])
    assert edit.diagnostics["drift_norm"] == pytest.approx(float(whole.norm()))


def test_a_loss_below_the_threshold_is_not_stepped_on():
    edit = make_lora(tiny_model(), loss_threshold=1e6).edit(tiny_model(), FACTS)
    assert edit.diagnostics["optimiser_steps"] == 0 and edit.diagnostics["drift_norm"] == 0


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_matrices_of_one_module_are_named_together_or_not_at_all(family):
    model = tiny_model(family)
    with pytest.raises(ConfigError, match=r"attn_q, attn_k, attn_v in one module.*name all of them"):
        make_lora(model, {"sites": ["attn_q", "attn_v"]}).prepare(model)
    made = make_lora(model, {"sites": ["attn_q", "attn_k", "attn_v"]})
    made.prepare(model)
    before = chance(model, FACTS[0])
    edit = made.edit(model, FACTS[:1])
    assert list(edit.update) == made.sites
    model.apply(edit.update)
    assert chance(model, FACTS[0]) > before


def test_regularizers_of_updates_and_weights_apply_and_others_are_refused():
    model = tiny_model()
    made = make_lora(model, regularizers={"norm_reset": NormReset(every=len(FACTS))})
    made.prepare(model)
    norms = [float(model.weight(*site).norm()) for site in made.sites]
    model.apply(made.edit(model, FACTS).update)
    assert [float(model.weight(*site).norm()) for site in made.sites] == pytest.approx(norms)
    with pytest.raises(ConfigError, match=r"mpes .* stop .* lora"):
        make_lora(model, regularizers={"mpes": MPES()})


def test_what_cannot_be_is_refused_by_a_sentence():
    with pytest.raises(ConfigError, match=r"editor\.steps=0"):
        make_lora(tiny_model(), steps=0)
    with pytest.raises(ConfigError, match=r"editor\.adapters\.layers names no block"):
        make_lora(tiny_model(), {"layers": None})
    with pytest.raises(ConfigError, match=r"sites .*mlp_gate.* tiny-gpt2 .*attn_q"):
        make_lora(tiny_model(), {"sites": ["mlp_gate"]}).prepare(tiny_model())

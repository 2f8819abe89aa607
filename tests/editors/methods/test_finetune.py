"""Fine-tuning is Adam on the published loss, leaves no trace, and FT-L stays inside its ball."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from editors.data import Fact
from editors.errors import ConfigError, NumericsError
from editors.methods.finetune import FineTuning
from editors.models.gradients import Objective, read_targets
from editors.models.model import Model
from editors.models.tokenization import tokenize_prompt
from editors.regularizers.mpes import MPES
from editors.regularizers.norm_reset import NormReset
from editors.regularizers.rect import Rect
from editors.updates import Site
from tests.tiny import FACTS, FAMILIES, tiny_model

EVERY = pytest.mark.parametrize("family", FAMILIES)
BOTH = pytest.mark.parametrize("objective", ["prompt_last", "teacher_forced"])


def finetune(**changes: object) -> FineTuning:
    return FineTuning(**({"name": "ft", "layers": [1], "steps": 4} | changes))


def plain_loss(model: Model, fact: Fact, objective: Objective) -> Tensor:
    """Mean −log P of the target tokens: one fact, the whole model, logits everywhere."""
    placed = tokenize_prompt(model.tokenizer, fact, target=fact.target_new)
    count = len(placed.target_ids)
    said = model.hf(torch.tensor([placed.ids])).logits[0].log_softmax(dim=-1)
    first = len(placed.ids) - count - 1
    rows = [first + (i if objective == "teacher_forced" else 0) for i in range(count)]
    return -said[rows, list(placed.target_ids)].mean()


def plain_finetune(model: Model, settings: FineTuning, site: Site) -> Tensor:
    """Adam on the module's own parameter, written as the published loop reads."""
    module = model.module(site.name, site.layer)
    parameter = module.weight
    assert isinstance(parameter, torch.nn.Parameter)
    first = parameter.detach().clone()
    parameter.requires_grad_()
    adam = torch.optim.Adam([parameter], lr=settings.learning_rate)
    size = settings.facts_at_once
    for _ in range(settings.steps):
        for start in range(0, len(FACTS), size):
            part = FACTS[start : start + size]
            adam.zero_grad()
            torch.stack([plain_loss(model, fact, settings.objective) for fact in part]).mean().backward()
            adam.step()
            if settings.norm_bound is not None:
                with torch.no_grad():
                    parameter.clamp_(first - settings.norm_bound, first + settings.norm_bound)
    change = parameter.detach() - first
    return change.T if isinstance(module, Conv1D) else change


@EVERY
@BOTH
def test_the_update_is_that_of_the_plain_loop(family, objective):
    settings = finetune(objective=objective, facts_at_once=2, norm_bound=1.5e-3)
    found = settings.edit(tiny_model(family), FACTS).update[Site("mlp_down", 1)].dense()
    expected = plain_finetune(tiny_model(family), settings, Site("mlp_down", 1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@EVERY
def test_the_gradient_of_every_matrix_is_that_of_its_parameter(family):
    model, layer = tiny_model(family), 2
    sites = [Site(name, layer) for name in model.sites]
    evaluation = read_targets(model, FACTS, "teacher_forced", layer).evaluate(sites)
    gradients = evaluation.gradients(evaluation.losses.sum())
    modules = {site: model.module(site.name, site.layer) for site in sites}
    parameters = [module.weight.requires_grad_() for module in modules.values()]
    counts = [
        len(tokenize_prompt(model.tokenizer, fact, target=fact.target_new).target_ids) for fact in FACTS
    ]
    loss = sum(plain_loss(model, fact, "teacher_forced") * n for fact, n in zip(FACTS, counts, strict=True))
    for site, gradient in zip(sites, torch.autograd.grad(loss, parameters), strict=True):
        whole = gradient.T if isinstance(modules[site], Conv1D) else gradient
        rows = model.family.fused.get(site.name)
        expected = whole if rows is None else whole[rows(model.hf.config)]
        torch.testing.assert_close(gradients[site].weight_gradient(), expected)


@BOTH
def test_losses_do_not_depend_on_who_else_is_in_the_batch(objective):
    model = tiny_model()
    together = read_targets(model, FACTS, objective, 1).evaluate([Site("mlp_down", 1)]).losses
    alone = [read_targets(model, [fact], objective, 1).evaluate([Site("mlp_down", 1)]) for fact in FACTS]
    torch.testing.assert_close(together, torch.cat([each.losses for each in alone]))


def test_a_target_that_is_the_unknown_token_is_trained_like_any_other():
    model = tiny_model(kind="metaspace")
    fact = replace(FACTS[0], target_new="日")
    reading = read_targets(model, [fact], "prompt_last", 1)
    assert model.tokenizer.unk_token_id in reading.targets.tolist()
    edit = finetune(steps=12).edit(model, [fact])
    assert edit.diagnostics["loss_end"] < edit.diagnostics["loss_start"]


def test_for_one_token_both_objectives_are_the_same():
    model = tiny_model()
    short = replace(FACTS[0], target_new="is")
    assert read_targets(model, [short], "prompt_last", 1).lengths.tolist() == [1]
    one, other = (
        finetune(objective=objective).edit(model, [short]).update[Site("mlp_down", 1)].dense()
        for objective in ("prompt_last", "teacher_forced")
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_entry_leaves_the_ball_around_the_weights_before_this_edit(dtype):
    model, site, bound = tiny_model(double=False), Site("mlp_down", 1), 7e-4
    model.hf.to(dtype)
    editor = finetune(norm_bound=bound)
    for fact in FACTS:
        first = model.master(site).clone()
        delta = editor.edit(model, [fact]).update[site]
        model.apply({site: delta})
        precise = torch.tensor(bound, dtype=delta.left.dtype)
        assert delta.left.abs().max() == precise
        after = model.master(site)
        assert bool((after <= first + bound).all() and (after >= first - bound).all())


def test_a_loss_below_the_threshold_is_not_stepped_on():
    edit = finetune(loss_threshold=1e6).edit(tiny_model(), FACTS)
    assert edit.diagnostics["optimiser_steps"] == 0 and edit.diagnostics["drift_max"] == 0


def test_diagnostics_tell_steps_losses_and_drift():
    edit = finetune(facts_at_once=2).edit(tiny_model(), FACTS)
    (delta,) = edit.update.values()
    assert edit.diagnostics["optimiser_steps"] == 8
    assert edit.diagnostics["loss_end"] < edit.diagnostics["loss_start"]
    assert edit.diagnostics["drift_norm"] == pytest.approx(delta.norm())
    assert edit.diagnostics["drift_max"] == pytest.approx(float(delta.dense().abs().max()))


def test_weight_decay_shrinks_what_is_written():
    model, site = tiny_model(), Site("mlp_down", 1)
    free, decayed = (
        model.weight(*site) + finetune(weight_decay=decay).edit(model, FACTS).update[site].dense()
        for decay in (0.0, 10.0)
    )
    assert decayed.norm() < free.norm()


@EVERY
def test_any_matrices_of_any_blocks_are_trained_the_last_block_included(family):
    model = tiny_model(family)
    editor = finetune(layers=[3, 1], matrices=["attn_q", "attn_v", "mlp_up", "mlp_down"])
    editor.prepare(model)
    before = {key: value.clone() for key, value in model.hf.state_dict().items()}
    edit = editor.edit(model, FACTS)
    assert all(torch.equal(before[key], value) for key, value in model.hf.state_dict().items())
    assert list(edit.update) == editor.sites and {site.layer for site in editor.sites} == {1, 3}
    assert all(delta.norm() > 0 for delta in edit.update.values())
    assert not any(p.requires_grad or p.grad is not None for p in model.hf.parameters())


def test_only_the_number_of_edits_is_remembered():
    editor = finetune()
    model = tiny_model()
    editor.commit(model, FACTS, editor.edit(model, FACTS))
    editor.load_state_dict(editor.state_dict())
    assert editor.state_dict() == {"edits": torch.tensor(len(FACTS))}


def test_a_failing_edit_names_its_fact_and_gives_the_weights_back():
    model, site = tiny_model(), Site("mlp_down", 3)
    model.write(site, model.weight(*site) * float("inf"))
    before = model.weight("mlp_down", 1).clone()
    with pytest.raises(NumericsError, match="loss of fact middle"):
        finetune().edit(model, FACTS)
    assert torch.equal(model.weight("mlp_down", 1), before)


def test_what_cannot_be_is_refused_by_a_sentence():
    with pytest.raises(ConfigError, match=r"editor\.norm_bound=0"):
        finetune(norm_bound=0.0)
    with pytest.raises(ConfigError, match=r"editor\.facts_at_once=0"):
        finetune(facts_at_once=0)
    with pytest.raises(ConfigError, match=r"mlp_gate.* tiny-gpt2 .*attn_q"):
        finetune(matrices=["mlp_gate"]).prepare(tiny_model())
    with pytest.raises(ConfigError, match=r"layers\.edit=\[9\].*4 blocks"):
        finetune(layers=[9]).prepare(tiny_model())


def test_regularizers_of_updates_and_weights_apply_and_others_are_refused():
    model = tiny_model()
    chosen = {"norm_reset": NormReset(every=len(FACTS)), "rect": Rect(keep=0.25)}
    editor = finetune(regularizers=chosen)
    editor.prepare(model)
    norms = [float(model.weight(site.name, site.layer).norm()) for site in editor.sites]
    model.apply(editor.edit(model, FACTS).update)
    after = [float(model.weight(site.name, site.layer).norm()) for site in editor.sites]
    assert after == pytest.approx(norms)
    with pytest.raises(ConfigError, match=r"mpes .* stop .* ft"):
        finetune(regularizers={"mpes": MPES()})


def test_the_end_of_text_is_one_more_target():
    model = tiny_model()
    end = model.tokenizer.eos_token_id
    plain, ended = (read_targets(model, FACTS, "teacher_forced", 1, ends=ends) for ends in (False, True))
    assert (ended.lengths - plain.lengths == 1).all()
    last = ended.lengths.cumsum(0) - 1
    assert (ended.targets[last] == end).all() and (ended.owner[last] == torch.arange(len(FACTS))).all()
    gained = ended.evaluate([]).losses - plain.evaluate([]).losses
    for fact, difference in zip(FACTS, gained.tolist(), strict=True):
        ids = tokenize_prompt(model.tokenizer, fact, target=fact.target_new).ids
        said = model.hf(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
        assert difference == pytest.approx(-float(said[end]), rel=1e-9)


def test_a_model_without_an_end_of_text_is_refused(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model()
    monkeypatch.setattr(type(model.tokenizer), "eos_token_id", None, raising=False)
    with pytest.raises(ConfigError, match=r"has no end of text: set editor\.ends=false"):
        finetune(ends=True).edit(model, FACTS)


def test_shuffled_passes_depend_on_seed_and_edit_alone():
    def change(seed: int | None, facts: int = 0) -> Tensor:
        model = tiny_model()
        editor = finetune(shuffle_seed=seed, facts_at_once=1)
        editor.edits = facts
        (delta,) = editor.edit(model, FACTS).update.values()
        return delta.dense()

    assert torch.equal(change(0), change(0)) and torch.equal(change(None, 3), change(None))
    assert not torch.equal(change(0), change(1)) and not torch.equal(change(0), change(0, facts=3))
    assert not torch.equal(change(0), change(None))


def test_every_pass_has_every_fact_once():
    orders = [finetune(shuffle_seed=5)._order(number, 20) for number in range(4)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4

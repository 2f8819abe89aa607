"""One mask over the edited weights: which entries it removes, for which facts, and what it leaves behind."""

from collections.abc import Sequence

import pytest
import torch

from analysis.stages.base import Observation
from analysis.stages.suppression import stage as module
from analysis.stages.suppression.mask import _evaluated, _weights, random_mask, removed_share, train
from analysis.stages.suppression.stage import Suppression, halves
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model
from editors.models.tokenization import tokenize
from editors.updates import Delta, Site
from tests.analysis.stages.test_suppression import known
from tests.tiny import FACTS, tiny_model

SITES = (Site("mlp_down", 1), Site("mlp_down", 2))


@pytest.fixture
def model() -> Model:
    return tiny_model()


def in_tokens(model: Model, facts: Sequence[Fact]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    texts = []
    for fact in facts:
        tokens = tokenize(model.tokenizer, f"{fact.statement} {fact.target_true}")
        first = tokens.first_after(len(fact.statement))
        texts.append((tokens.ids[:first], tokens.ids[first:]))
    return texts


def measured(model: Model, **options: float) -> tuple[dict, dict[Site, torch.Tensor]]:
    """The numbers of the stage after every matrix was given a wide row; and the matrices."""
    facts = known(model)
    stage = Suppression(mask=0.05, mask_steps=5, **options)
    stage.prepare(model, facts)
    stage._known = {fact.id for fact in facts}
    for site in SITES:
        weight = model.current(site).clone()
        weight[::3] += 3 * torch.randn(weight[::3].shape, generator=torch.Generator().manual_seed(1))
        model.write(site, weight)
    before = {site: model.current(site).clone() for site in SITES}
    seen = Observation(count=2, total=2, seen=facts, untouched=facts, edited=SITES)
    return stage.measure(model, seen), before


@pytest.mark.parametrize("site", SITES)
def test_the_one_weight_that_carries_the_edit_is_found(model: Model, site: Site):
    """A large number in one place hides what the model said, and a mask of one entry finds the place."""
    facts = known(model)
    stage = Suppression(mask=1.5 / sum(model.current(each).numel() for each in SITES), mask_steps=10)
    stage.prepare(model, facts)
    facts = [fact for fact in facts if fact.id in stage._known]
    weight = model.current(site).clone()
    weight[5, 20] += 100
    model.write(site, weight)
    mask = train(model, SITES, in_tokens(model, facts), share=stage.mask or 0, steps=10)
    removed = {each: mask[each].nonzero().tolist() for each in SITES}
    assert removed == {each: [] for each in SITES} | {site: [[5, 20]]}
    seen = Observation(count=2, total=2, seen=facts, untouched=facts, edited=SITES)
    result = stage.measure(model, seen)
    assert result["edit/mask/restored"] == result["edit/mask/trained"] == 1.0
    assert result["edit/mask/unchanged"] == result["edit/mask/restored_random"] == 0.0
    assert not any("kept" in key for key in result)  # it knows none of them any more


def test_a_mask_without_room_removes_nothing(model: Model):
    mask = train(model, SITES, in_tokens(model, known(model)), share=1e-9, steps=3)
    assert removed_share(mask) == 0 and not any(removed.any() for removed in mask.values())
    assert removed_share(random_mask(mask, 0)) == 0


def test_training_lowers_the_loss_of_its_texts(model: Model):
    """Also of old objects that the model never said: the mask is chosen for them."""
    texts = in_tokens(model, FACTS)

    def loss() -> float:
        total = 0.0
        for prompt, target in texts:
            logits = model.hf(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
            total -= float(logits.log_softmax(dim=-1)[range(len(target)), target].sum())
        return total

    before = loss()
    mask = train(model, SITES, texts, share=0.1, steps=5)
    for site in SITES:
        model.write(site, model.current(site).masked_fill(mask[site], 0))
    assert loss() < before


def test_the_gradient_by_the_mask_is_that_of_the_weights(model: Model):
    """The first mask holds the largest −W ∂L/∂W' of the model itself, up to sign: W' = W ⊙ (1 − r)."""
    texts = in_tokens(model, FACTS[:1])
    mask = train(model, SITES[:1], texts, share=0.01, steps=1)
    parameter = model.module(*SITES[0]).weight
    parameter.requires_grad_()
    prompt, target = texts[0]
    logits = model.hf(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
    logits.log_softmax(dim=-1)[range(len(target)), target].mean().backward()
    lowers = -(parameter * parameter.grad).detach()  # ∂(log P)/∂r
    parameter.requires_grad_(False)
    parameter.grad = None
    gain = lowers if lowers.shape == mask[SITES[0]].shape else lowers.T
    most = int(0.01 * gain.numel())
    assert gain[mask[SITES[0]]].min() == pytest.approx(float(gain.flatten().topk(most).values[-1]), rel=1e-3)


def test_a_random_mask_is_as_large_in_every_matrix(model: Model):
    mask = train(model, SITES, in_tokens(model, FACTS), share=0.02, steps=2)
    control = random_mask(mask, 0)
    assert {site: int(each.sum()) for site, each in control.items()} == {
        site: int(each.sum()) for site, each in mask.items()
    }
    assert any(not torch.equal(control[site], mask[site]) for site in SITES)
    assert all(torch.equal(control[site], random_mask(mask, 0)[site]) for site in SITES)
    assert any(not torch.equal(control[site], random_mask(mask, 1)[site]) for site in SITES)


@pytest.mark.parametrize("seed", range(5))
def test_the_halves_share_no_subject_and_hold_every_fact(seed: int):
    facts = [
        Fact(id=f"{subject}{i}", prompt=f"{{}} {i}", subject=f"S{subject}", target_new="a")
        for subject in range(7)
        for i in range(1 + subject % 3)
    ]
    trained, judged = halves(facts, seed)
    assert len({fact.subject for fact in trained}) == 3 and len({fact.subject for fact in judged}) == 4
    assert not {fact.subject for fact in trained} & {fact.subject for fact in judged}
    assert sorted([*trained, *judged], key=lambda fact: fact.id) == sorted(facts, key=lambda fact: fact.id)


def test_the_model_is_as_it_was_to_the_byte(model: Model):
    state = torch.get_rng_state()
    result, before = measured(model)
    assert result["edit/mask/removed"] > 0
    assert all(torch.equal(model.current(site), weight) for site, weight in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(each.requires_grad or each.grad is not None for each in model.hf.parameters())


def test_the_same_seed_gives_the_same_numbers():
    first, second = (measured(tiny_model(), seed=3)[0] for _ in range(2))
    assert first == second
    names = {key.removeprefix("edit/mask/") for key in first if key.startswith("edit/mask/")}
    assert {"removed", "trained", "unchanged", "restored", "restored_random", "likelier"} <= names


def test_without_the_option_no_mask_is_trained_and_one_subject_has_no_halves(
    model: Model, caplog: pytest.LogCaptureFixture
):
    facts = known(model)
    for stage, seen in ((Suppression(), facts), (Suppression(mask=0.1), facts[:1])):
        stage.prepare(model, facts)
        stage._known = {fact.id for fact in facts}
        result = stage.measure(model, Observation(count=1, total=1, seen=seen, edited=SITES))
        assert result and not any(key.startswith("edit/mask/") for key in result)
    assert [record.message for record in caplog.records] == [
        "suppression: no mask, because the edited facts that the model knew have one subject"
    ]


def test_facts_that_the_edited_model_still_knows_are_the_control(model: Model):
    """Without any change all are known; a mask that pushes one of them out counts."""
    facts = known(model)
    stage = Suppression(mask=1e-9, mask_steps=1)
    stage.prepare(model, facts)
    facts = [fact for fact in facts if fact.id in stage._known]
    seen = Observation(count=2, total=2, seen=facts, untouched=[*facts, *FACTS], edited=SITES)
    result = stage.measure(model, seen)
    assert result["edit/mask/removed"] == 0.0
    assert all(
        result[f"edit/mask/{name}"] == 1.0 for name in ("unchanged", "restored", "kept", "kept_random")
    )


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_out_of_range_is_refused(share: float):
    with pytest.raises(ConfigError, match=r"suppression\.mask=.* between 0 and 1"):
        Suppression(mask=share)


def test_a_mask_is_trained_for_at_least_one_step():
    with pytest.raises(ConfigError, match=r"suppression\.mask_steps=0"):
        Suppression(mask_steps=0)


def test_the_mask_is_trained_on_one_half_and_judged_on_the_other(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    """The texts that it learns from, and the facts that are asked under it."""
    trained, judged = halves(known(model), 0)
    given: list[Sequence[tuple[tuple[int, ...], tuple[int, ...]]]] = []
    asked: list[set[str]] = []

    def spy(model: Model, sites: Sequence[Site], texts: Sequence, **options: float):
        given.append(texts)
        return train(model, sites, texts, **options)

    def seen(stage: Suppression, facts: Sequence[Fact], prompts: Sequence[str]) -> float:
        asked.append({fact.id for fact in facts})
        return 0.0

    monkeypatch.setattr(module, "train", spy)
    monkeypatch.setattr(Suppression, "_likelier", seen)
    measured(model)
    assert given == [in_tokens(model, trained)] != [in_tokens(model, judged)]
    assert asked[-2:] == [{fact.id for fact in judged}] * 2


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi3"])
def test_a_removed_entry_of_a_model_in_half_precision_is_zero_in_training_too(family: str):
    """And not the difference of the rounded weight and its float32 master."""
    model = tiny_model(family, double=False)
    model.hf.to(torch.bfloat16)
    for site in SITES:
        drift = 1e-3 * torch.randn(model.current(site).shape, generator=torch.Generator().manual_seed(0))
        model.apply({site: Delta(left=drift)})
    texts = in_tokens(model, FACTS)
    everything = {site: torch.ones_like(model.current(site), dtype=torch.bool) for site in SITES}
    loss, _ = _evaluated(model, _weights(model, SITES), everything, texts)
    for site in SITES:
        model.write(site, torch.zeros_like(model.current(site)))
    nothing = {site: torch.zeros_like(removed) for site, removed in everything.items()}
    written, _ = _evaluated(model, _weights(model, SITES), nothing, texts)
    assert loss == written

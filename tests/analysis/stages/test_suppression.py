"""What is left of an old object: under attack, block by block, and with a part of the drift."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from analysis.stages.base import Observation
from analysis.stages.reference import Reference
from analysis.stages.suppression.stage import Suppression
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model
from editors.models.tokenization import tokenize_prompt
from editors.updates import Site
from tests.tiny import FACTS, tiny_model

SITES = (Site("mlp_down", 1), Site("mlp_down", 2))


def known(model: Model) -> list[Fact]:
    """The facts, with the model's own first choice as their old object."""
    facts = []
    for fact in FACTS:
        ids = torch.tensor([model.tokenizer(fact.statement).input_ids])
        choices = model.hf(ids).logits[0, -1].argsort(descending=True).tolist()
        for token in choices:
            word = model.tokenizer.decode([token]).strip()
            try:
                placed = tokenize_prompt(model.tokenizer, fact, target=word) if word else None
            except Exception:
                continue
            if placed is not None and placed.target_ids == (token,):
                break
        facts.append(
            Fact(
                id=fact.id, prompt=fact.prompt, subject=fact.subject,
                target_new=fact.target_new, target_true=word,
            )
        )  # fmt: skip
    return facts


def seen(
    model: Model, facts: Sequence[Fact], reference: Reference, others: Sequence[Fact] = ()
) -> Observation:
    return Observation(
        count=len(facts), total=len(facts), seen=facts, others=others, edited=SITES, reference=reference
    )


def drifted(model: Model, size: float, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for site in SITES:
        weight = model.current(site)
        model.write(site, weight + size * torch.randn(weight.shape, generator=generator).to(weight))


@pytest.fixture
def model() -> Model:
    return tiny_model()


def test_only_facts_that_the_unedited_model_knows_are_asked_about(model: Model):
    stage, reference = Suppression(), Reference(model)
    stage.prepare(model, FACTS)
    asked = [fact for fact in FACTS if fact.id in stage._known]
    assert bool(stage.measure(model, seen(model, FACTS, reference))) == bool(asked)
    facts = known(model)
    stage.prepare(model, facts)
    assert 2 <= len(stage._known) <= len(facts)
    assert stage.measure(model, Observation(count=0, total=3, reference=reference)) == {}


def test_a_run_in_which_nothing_can_be_asked_says_so(model: Model, caplog: pytest.LogCaptureFixture):
    nonsense = [replace(fact, target_true="of of of") for fact in FACTS]
    Suppression().prepare(model, nonsense)
    (record,) = caplog.records
    assert record.message.startswith(f"suppression: the unedited model knows none of the {len(FACTS)} edited")
    caplog.clear()
    Suppression().prepare(model, known(model))
    assert not caplog.records


def test_the_unedited_model_has_nothing_to_restore(model: Model):
    stage, reference, facts = Suppression(), Reference(model), known(model)
    stage.prepare(model, facts)
    result = stage.measure(model, seen(model, facts, reference))
    assert result["edit/hushed/unchanged"] == result["edit/hushed/restored"] == 1.0
    assert result["edit/hushed/shrunk"] == 1.0


def test_a_drift_of_one_direction_is_undone_and_weights_stay_as_they_are(model: Model):
    """Shrunk by half of its energy it still stands."""
    stage, reference, facts = Suppression(), Reference(model), known(model)
    stage.prepare(model, facts)
    for site in SITES:
        weight = model.current(site)
        left = torch.ones(len(weight), 1).to(weight)
        left[::2] = -1
        model.write(site, weight + 50 * left @ torch.ones(1, weight.shape[1]).to(weight))
    before = {site: model.current(site).clone() for site in SITES}
    result = stage.measure(model, seen(model, facts, reference))
    assert result["edit/hushed/restored"] == 1.0
    assert result["edit/hushed/unchanged"] == result["edit/hushed/shrunk"]
    assert all(torch.equal(model.current(site), weight) for site, weight in before.items())


def test_the_reduced_drifts_have_the_energy_that_is_left():
    stage = Suppression(energy=0.4)
    drift = torch.randn(8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shrunk, without = stage._shrunk(drift), stage._without_largest(drift)
    whole = float(drift.square().sum())
    assert float(shrunk.square().sum()) == pytest.approx(0.6 * whole)
    values = torch.linalg.svdvals(drift)
    rank = int((torch.linalg.svdvals(without) > 1e-9).sum())
    assert float(without.square().sum()) <= 0.6 * whole < float((values[-rank - 1 :] ** 2).sum())
    assert torch.linalg.matrix_norm(without, ord=2) == pytest.approx(float(values[-rank]))


def test_the_lens_ends_with_the_model_s_own_probabilities(model: Model):
    stage, reference, facts = Suppression(), Reference(model), known(model)
    stage.prepare(model, facts)
    drifted(model, 0.1)
    result = stage.measure(model, seen(model, facts, reference))
    asked = [fact for fact in facts if fact.id in stage._known]
    assert len(asked) >= 2
    expected = {"old": 0.0, "new": 0.0}
    for fact in asked:
        for name, target in (("old", fact.target_true), ("new", fact.target_new)):
            row = tokenize_prompt(model.tokenizer, fact, target=target)
            prompt = row.ids[: len(row.ids) - len(row.target_ids)]
            said = model.hf(torch.tensor([prompt])).logits[0, -1].softmax(dim=-1)
            expected[name] += float(said[row.target_ids[0]]) / len(asked)
    last = model.depth - 1
    assert result[f"edit/lens/old.block.{last:02d}"] == pytest.approx(expected["old"])
    assert result[f"edit/lens/new.block.{last:02d}"] == pytest.approx(expected["new"])
    assert len([key for key in result if key.startswith("edit/lens/old")]) == model.depth


def test_an_attack_needs_another_fact_of_the_subject(model: Model):
    stage, reference, facts = Suppression(), Reference(model), known(model)
    stage.prepare(model, facts)
    drifted(model, 0.1)
    alone = stage.measure(model, seen(model, facts, reference))
    assert not any("attacked" in key for key in alone)
    other = Fact(id="x", prompt="{} lives in", subject=facts[0].subject, target_new="a", target_true="Rome")
    both = stage.measure(model, seen(model, facts, reference, [other]))
    assert {"edit/hushed/attacked", "edit/hushed/plain"} <= set(both)


@pytest.mark.parametrize("energy", [0.0, 1.0])
def test_an_energy_out_of_range_is_refused(energy: float):
    with pytest.raises(ConfigError, match=r"suppression\.energy=.* between 0 and 1"):
        Suppression(energy=energy)

"""Scores against a hand-made reading of the model's own logits."""

from collections.abc import Sequence

import pandas as pd
import pytest
import torch

from analysis.efficacy import Efficacy, summarise
from analysis.scoring import Scorer
from analysis.stage import Observation
from editors.model.facts import Fact
from editors.model.model import Model
from editors.model.positions import tokenize
from tests.tiny import FACTS, FAMILIES, Kind, tiny_model

PAIRS = [
    ("The mother tongue of Danielle Darrieux is", "French"),
    ("The mother tongue of Danielle Darrieux is", "English"),
    ("Rob", "walks to town"),
    ("Ada Byron works as a", "poet"),
]


def by_hand(model: Model, prompt: str, continuation: str) -> tuple[float, bool]:
    """Mean log-probability and exactness from a whole forward pass of one row."""
    ids = tokenize(model.tokenizer, f"{prompt} {continuation}").ids
    start = len(tokenize(model.tokenizer, prompt).ids)
    said = model.hf(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    steps = [(said[i - 1], ids[i]) for i in range(start, len(ids))]
    mean = sum(float(row[token]) for row, token in steps) / len(steps)
    return mean, all(int(row.argmax()) == token for row, token in steps)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["plain", "bos"])
def test_scores_are_those_of_whole_forward_passes_one_by_one(family: str, kind: Kind):
    model = tiny_model(family, kind)
    scores = Scorer(model).score(PAIRS)
    for (prompt, continuation), value, exact in zip(PAIRS, scores.log_probability, scores.exact, strict=True):
        expected, hit = by_hand(model, prompt, continuation)
        assert float(value) == pytest.approx(expected, rel=1e-6)
        assert bool(exact) == hit


def test_scores_do_not_depend_on_batches_or_order():
    model = tiny_model()
    whole = Scorer(model).score(PAIRS).log_probability
    small = Scorer(model, batch_tokens=1).score(PAIRS[::-1]).log_probability.flip(0)
    torch.testing.assert_close(whole, small)


def first_choice(model: Model, prompt: str) -> str:
    ids, mask = model.encode([prompt])
    best = model.logits(model.hidden(ids, mask)[0, -1]).argsort(descending=True)
    return next(
        word for i in best if (word := model.tokenizer.decode([int(i)])).strip().isalpha() and word[0] == " "
    )


def measured(facts: Sequence[Fact], **more: Sequence[Fact]) -> dict:
    model = tiny_model()
    stage = Efficacy()
    stage.prepare(model)
    return stage.measure(
        model, Observation(edits=len(facts), total=len(facts), seen=facts, latest=facts, **more)
    )


def test_a_fact_that_the_model_already_says_scores_one_and_its_reverse_zero():
    prompt = "The mother tongue of {} is"
    said = first_choice(tiny_model(), prompt.replace("{}", "Rob")).strip()
    fact = Fact(id="a", prompt=prompt, subject="Rob", target_new=said, target_true="zzz")
    reverse = Fact(id="b", prompt=prompt, subject="Rob", target_new="zzz", target_true=said)
    assert measured([fact])["edit/success/seen.rewrite"] == 1
    assert measured([reverse])["edit/success/seen.rewrite"] == 0
    assert measured([fact, reverse])["edit/success/seen.rewrite"] == 0.5


def test_neighbours_count_the_true_object_as_success():
    prompt = "The mother tongue of {} is"
    said = first_choice(tiny_model(), prompt.replace("{}", "Rob")).strip()
    near = (prompt.replace("{}", "Rob"),)
    kept = Fact(id="a", prompt=prompt, subject="Ada", target_new="zzz", target_true=said, neighbours=near)
    lost = Fact(id="b", prompt=prompt, subject="Ada", target_new=said, target_true="zzz", neighbours=near)
    assert measured([kept])["edit/success/seen.neighbour"] == 1
    assert measured([lost])["edit/success/seen.neighbour"] == 0


def test_pools_are_asked_for_their_true_objects():
    found = measured(FACTS[:1], others=FACTS[1:2], untouched=FACTS[2:])
    assert {"edit/known/other", "edit/known/unedited"} <= set(found)


def test_facts_without_a_true_object_have_accuracy_but_no_success():
    fact = Fact(id="a", prompt="{} works as a", subject="Ada Byron", target_new="poet")
    found = measured([fact])
    assert "edit/accuracy/seen.rewrite" in found
    assert not any(key.startswith(("edit/success", "edit/score")) for key in found)


def test_means_are_taken_within_a_fact_first_and_the_score_is_their_harmonic_mean():
    records = pd.DataFrame(
        {
            "success.rewrite": [1.0, 0.0],
            "success.paraphrase": [0.5, 0.5],
            "success.neighbour": [1.0, None],
            "accuracy.rewrite": [1.0, 1.0],
        }
    )
    found = summarise(records, "seen")
    assert found["edit/success/seen.rewrite"] == 0.5
    assert found["edit/success/seen.neighbour"] == 1
    assert found["edit/score/seen"] == pytest.approx(3 / (1 / 0.5 + 1 / 0.5 + 1 / 1))


def test_the_records_of_the_end_have_a_row_for_each_edit_with_its_log_probabilities():
    records = measured(FACTS)["records"]
    assert list(records["id"]) == [fact.id for fact in FACTS]
    assert records["log_p_new.rewrite"].notna().all()


def test_a_sample_is_drawn_by_id_so_that_a_longer_run_keeps_it():
    facts = [
        Fact(id=str(i), prompt="{} is", subject=f"Rob {i}", target_new="a", target_true="b")
        for i in range(40)
    ]
    stage = Efficacy(sample=10)
    drawn = {fact.id for fact in stage._drawn(facts)}
    assert len(drawn) == 10
    assert {fact.id for fact in stage._drawn(facts[::-1])} == drawn
    assert len(drawn & {fact.id for fact in stage._drawn([*facts, *facts[:0]])}) == 10


def test_a_model_that_gives_no_numbers_has_failed_and_keeps_no_earlier_score():
    model = tiny_model()
    model.hf.get_output_embeddings().weight.data.fill_(float("nan"))
    stage = Efficacy()
    stage.prepare(model)
    found = stage.measure(model, Observation(edits=1, total=1, seen=FACTS[:1]))
    assert found["edit/success/seen.rewrite"] == found["edit/success/seen.neighbour"] == 0
    assert found["edit/score/seen"] == 0


def test_neighbours_of_a_fact_without_a_true_object_have_no_accuracy():
    fact = Fact(id="a", prompt="{} works as a", subject="Ada", target_new="poet", neighbours=("Rob is",))
    assert "edit/accuracy/seen.neighbour" not in measured([fact])


def test_every_edit_is_among_the_records_of_the_end_also_beyond_the_sample():
    model = tiny_model()
    stage = Efficacy(sample=1)
    stage.prepare(model)
    records = stage.measure(model, Observation(edits=3, total=3, seen=FACTS))["records"]
    assert list(records["edit"]) == [1, 2, 3]

"""Likelihoods and first choices against whole forward passes, one by one."""

import pytest
import torch

from analysis.inference.scoring import Scorer
from editors.models.tokenization import tokenize
from tests.analysis.fact_scores import by_hand
from tests.tiny import FAMILIES, Kind, tiny_model

PAIRS = [
    ("The mother tongue of Danielle Darrieux is", "French"),
    ("The mother tongue of Danielle Darrieux is", "English"),
    ("Rob", "walks to town"),
    ("Ada Byron works as a", "poet"),
]


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


def test_objects_that_begin_alike_are_read_off_one_pass():
    model = tiny_model()
    pairs = [
        ("Rob", "walks"),
        ("Rob", "walks to"),
        ("Rob", "walks to town"),
        ("Rob walks", "to"),
        ("Rob", "is"),
    ]
    seen = []
    hook = model.hf.base_model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"].shape[0]), with_kwargs=True
    )
    scores = Scorer(model).score(pairs)
    hook.remove()
    assert seen == [1]
    for pair, value in zip(pairs, scores.log_probability, strict=True):
        assert float(value) == pytest.approx(by_hand(model, *pair)[0], rel=1e-6)


def test_first_choices_are_those_of_a_whole_pass():
    """The share of them that are the target tokens is `correct`."""
    model = tiny_model()
    (prompt, continuation) = PAIRS[2]
    scores = Scorer(model).score([PAIRS[0], PAIRS[2]])
    ids = tokenize(model.tokenizer, f"{prompt} {continuation}").ids
    start = len(tokenize(model.tokenizer, prompt).ids)
    best = model.hf(input_ids=torch.tensor([ids])).logits[0].argmax(dim=-1)[start - 1 : -1].tolist()
    assert list(scores.choices[1]) == best
    hits = [a == b for a, b in zip(best, ids[start:], strict=True)]
    assert float(scores.correct[1]) == sum(hits) / len(hits)


def test_no_pairs_have_no_scores():
    assert len(Scorer(tiny_model()).score([]).exact) == 0

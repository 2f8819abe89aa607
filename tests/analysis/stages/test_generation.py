"""Entropy and repetition of texts whose n-grams can be counted by hand."""

from dataclasses import replace
from math import log2

import pytest
import torch

from analysis.stages.base import Observation
from analysis.stages.generation import Generation, entropy, repetition, words
from editors.errors import ConfigError
from tests.tiny import FACTS, tiny_model

OBSERVED = Observation(count=1, total=2)
END = Observation(count=2, total=2)


def test_one_repeated_word_has_no_entropy_and_repeats_itself_but_once():
    text = "so " * 12
    assert entropy(text) == 0
    assert repetition(text) == pytest.approx(1 - 1 / 10)


def test_words_that_all_differ_have_the_logarithm_of_the_number_of_ngrams():
    text = " ".join(f"w{i}" for i in range(20))
    assert entropy(text) == pytest.approx((2 / 3 * log2(19) + 4 / 3 * log2(18)) / 2)
    assert repetition(text) == 0


def test_the_weights_are_the_published_ones():
    # bigrams ab ba ab ba: 1 bit; trigrams aba bab aba: H(2/3, 1/3)
    third = -(2 / 3) * log2(2 / 3) - 1 / 3 * log2(1 / 3)
    assert entropy("a b a b a") == pytest.approx((2 / 3 * 1 + 4 / 3 * third) / 2)
    assert repetition("a b a b a") == pytest.approx(1 / 3)


@pytest.mark.parametrize("text", ["", "so", "so so"])
def test_a_text_without_ngrams_has_none_of_their_entropy(text: str):
    assert entropy(text) == repetition(text) == 0


def test_words_are_runs_of_letters_and_digits_and_other_signs_one_by_one():
    assert words("It's 3.5 km, she said.") == "It ' s 3 . 5 km , she said .".split()


def test_samples_are_the_same_every_time_and_leave_the_global_random_state():
    model, stage = tiny_model(), Generation(length=30)
    stage.prepare(model, FACTS)
    first = stage.measure(model, OBSERVED)
    torch.rand(3)
    state = torch.get_rng_state()
    assert stage.measure(model, OBSERVED) == first
    assert torch.equal(torch.get_rng_state(), state)
    other = Generation(length=30, seed=1)
    other.prepare(model, FACTS)
    assert other.measure(model, OBSERVED) != first


def test_the_end_keeps_the_texts_and_their_entropies_average_to_the_key():
    model, stage = tiny_model(), Generation(prompts=2, length=30)
    stage.prepare(model, FACTS)
    assert "generations" not in stage.measure(model, OBSERVED)
    found = stage.measure(model, END)
    table = found["generations"]
    assert list(table["prompt"]) == [fact.statement for fact in FACTS[:2]]
    assert all(text.startswith(prompt) for prompt, text in zip(table["prompt"], table["text"], strict=True))
    assert list(table["entropy"]) == [entropy(text) for text in table["text"]]
    assert found["generation/entropy/mean"] == pytest.approx(table["entropy"].mean())


def test_a_model_that_says_one_word_only_has_no_varied_text():
    model, stage = tiny_model(), Generation(texts=["The river"], top_k=1, length=60)
    stage.prepare(model)
    head = model.hf.get_output_embeddings().weight
    head.data.zero_()
    bias = torch.nn.Parameter(torch.zeros(len(head), dtype=head.dtype))
    bias.data[model.tokenizer(" town")["input_ids"][0]] = 1
    model.hf.get_output_embeddings().bias = bias
    found = stage.measure(model, END)
    assert found["generation/entropy/mean"] < 1
    assert found["generation/repetition/mean"] > 0.8


def test_where_nothing_is_edited_untouched_facts_are_continued():
    model, stage = tiny_model(), Generation(prompts=2, length=20)
    stage.prepare(model)
    start = Observation(count=0, total=4, unit="steps", untouched=FACTS)
    assert stage.measure(model, start) == stage.measure(model, replace(start, count=1, untouched=FACTS[::-1]))
    table = stage.measure(model, replace(start, count=4))["generations"]
    assert list(table["prompt"]) == [fact.statement for fact in FACTS[:2]]


def test_given_prompts_go_before_those_of_facts():
    model, stage = tiny_model(), Generation(texts=["The river"], length=20)
    stage.prepare(model, FACTS)
    assert list(stage.measure(model, END)["generations"]["prompt"]) == ["The river"]


def test_nothing_to_continue_is_refused():
    model, stage = tiny_model(), Generation()
    stage.prepare(model)
    with pytest.raises(ConfigError, match=r"stage\.generation .*prompts=10.*stage\.generation\.texts"):
        stage.measure(model, OBSERVED)
    with pytest.raises(ConfigError, match=r"stage\.generation\.length=1.*at least 2"):
        Generation(length=1)

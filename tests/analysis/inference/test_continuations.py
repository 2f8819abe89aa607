"""What a model writes, against a whole forward pass for each token."""

import pytest
import torch
from transformers import GenerationConfig

from analysis.inference.continuations import TopK, continuations
from editors.errors import DataError
from editors.models.model import Model
from editors.models.tokenization import tokenize, tokenize_all
from tests.tiny import FAMILIES, TEXT, Kind, tiny_model

PROMPTS = ["The mother tongue of Danielle Darrieux is", "Rob", "Ada Byron works as a", "Because"]


def by_hand(model: Model, prompt: str, tokens: int, *, stops: bool = True) -> str:
    ids = list(tokenize(model.tokenizer, prompt).ids)
    start = len(ids)
    while len(ids) < start + tokens:
        best = int(model.hf(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if stops and best == model.tokenizer.eos_token_id:
            break
        ids.append(best)
    decode = [model.tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:start], ids)]
    return decode[1][len(decode[0]) :]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["plain", "bos", "metaspace"])
def test_greedy_continuations_are_those_of_whole_passes_one_by_one(family: str, kind: Kind):
    model = tiny_model(family, kind)
    for prompt, text in zip(PROMPTS, continuations(model, PROMPTS, tokens=6), strict=True):
        assert text == by_hand(model, prompt, 6)


def test_greedy_continuations_depend_neither_on_batches_nor_on_order():
    model = tiny_model()
    together = continuations(model, PROMPTS, tokens=8)
    assert continuations(model, PROMPTS[::-1], tokens=8, batch_tokens=1)[::-1] == together
    assert [continuations(model, [prompt], tokens=8)[0] for prompt in PROMPTS] == together


def test_a_continuation_stops_at_the_end_of_text_only_with_stops():
    model = tiny_model()
    head = model.hf.get_output_embeddings().weight
    ids, mask = model.encode(PROMPTS[1:2])
    head.data[0] = 100 * model.hidden(ids, mask)[0, -1]  # so that the end-of-text token comes first
    assert continuations(model, PROMPTS[1:2], tokens=5) == [""]
    assert by_hand(model, PROMPTS[1], 5) == ""
    on = continuations(model, PROMPTS[1:2], tokens=5, stops=False)
    assert on == [by_hand(model, PROMPTS[1], 5, stops=False)]


@pytest.mark.parametrize("tokens", [20, 500])
def test_a_text_has_the_requested_tokens_or_as_many_as_the_model_reads(tokens: int):
    model = tiny_model()
    written = continuations(model, PROMPTS[:2], tokens=tokens, counts_prompt=True, stops=False)
    for prompt, text in zip(PROMPTS, written, strict=False):
        room = min(tokens, model.max_tokens) - len(tokenize(model.tokenizer, prompt).ids)
        assert text == by_hand(model, prompt, room, stops=False)


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(DataError, match=r"so so .*may have 64 \(tiny-gpt2"):
        continuations(tiny_model(), ["so " * 99], tokens=5)
    with pytest.raises(DataError, match="may have 2"):
        continuations(tiny_model(), PROMPTS[:1], tokens=2, counts_prompt=True)


def sampled(model: Model, seed: int) -> list[str]:
    return continuations(model, PROMPTS, tokens=12, stops=False, sampling=TopK(k=5, seed=seed))


def test_a_seed_gives_the_same_samples_and_leaves_the_global_random_state():
    model = tiny_model()
    first = sampled(model, 1)
    torch.rand(7)
    state = torch.get_rng_state()
    assert sampled(model, 1) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert sampled(model, 2) != first


def test_only_the_likeliest_tokens_are_sampled():
    model = tiny_model()
    assert continuations(model, PROMPTS, tokens=6, sampling=TopK(k=1)) == continuations(
        model, PROMPTS, tokens=6
    )


def test_a_checkpoints_own_generation_defaults_count_for_nothing_and_stay():
    model = tiny_model()
    greedy, drawn = continuations(model, PROMPTS, tokens=6), sampled(model, 0)
    own = GenerationConfig(
        do_sample=True, temperature=0.01, repetition_penalty=9.0, max_new_tokens=1, eos_token_id=0
    )
    model.hf.generation_config = own
    before = own.to_dict()
    assert continuations(model, PROMPTS, tokens=6) == greedy
    assert sampled(model, 0) == drawn
    assert model.hf.generation_config is own and own.to_dict() == before


def test_nothing_is_written_after_nothing():
    assert continuations(tiny_model(), [], tokens=3) == []


@pytest.mark.parametrize("kind", ["plain", "bos", "metaspace", "types"])
def test_many_texts_are_cut_as_each_alone(kind: Kind):
    cutter = tiny_model(kind=kind).tokenizer
    assert tokenize_all(cutter, TEXT) == [tokenize(cutter, text) for text in TEXT]

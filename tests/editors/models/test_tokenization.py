"""Characters to tokens, under every kind of tokenizer."""

import pytest

from editors.data import Fact
from editors.errors import DataError
from editors.models.tokenization import pad, tokenize, tokenize_prompt
from tests.tiny import FACTS, Kind, tokenizer

KINDS: tuple[Kind, ...] = ("plain", "bos", "metaspace", "types")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.id)
@pytest.mark.parametrize("context", ["{}", "The river. {}"])
def test_the_subject_position_is_the_token_in_which_the_subject_ends(kind: Kind, fact: Fact, context: str):
    tokens = tokenizer(kind)
    prompt = tokenize_prompt(tokens, fact, context, fact.target_new)
    text = context.replace("{}", fact.statement) + " " + fact.target_new
    start, end = tokenize(tokens, text).spans[prompt.subject_last]
    subject_end = text.index(fact.subject) + len(fact.subject)
    assert start < subject_end == end


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.id)
def test_the_target_tokens_spell_the_target_and_nothing_else(kind: Kind, fact: Fact):
    tokens = tokenizer(kind)
    prompt = tokenize_prompt(tokens, fact, target=fact.target_new)
    assert tokens.decode(prompt.target_ids).strip() == fact.target_new
    assert prompt.ids[-len(prompt.target_ids) :] == prompt.target_ids


def test_a_prompt_without_target_has_no_target_tokens():
    assert tokenize_prompt(tokenizer(), FACTS[0]).target_ids == ()


def test_a_token_that_reaches_beyond_the_subject_is_an_error_that_names_it():
    fact = Fact(id="x", prompt="{}y", subject="Everyone in tow", target_new="b")
    spelt = Fact(id="x", prompt="{}n admires", subject="Everyone in tow", target_new="b")
    tokenize_prompt(tokenizer(), fact)
    with pytest.raises(DataError, match="joins 'Everyone in tow'"):
        tokenize_prompt(tokenizer(), spelt)


def test_padding_is_told_by_the_mask_on_either_side():
    rows = [(5, 6, 7), (8,), ()]
    for side, column in (("right", 0), ("left", 2)):
        ids, mask = pad(rows, side)
        assert ids[1, column] == 8
        assert mask.sum(dim=1).tolist() == [3, 1, 0]
        assert [tuple(ids[i][mask[i]].tolist()) for i in range(3)] == rows

"""Perplexity against whole forward passes and PyTorch's own cross entropy."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from analysis.inference.scoring import score_tokens
from analysis.inference.texts import TextSet
from analysis.stages.base import Observation
from analysis.stages.perplexity import Perplexity, document_losses
from editors.errors import ConfigError
from editors.models.model import Model
from editors.models.tokenization import tokenize
from tests.tiny import FAMILIES, TEXT, Kind, tiny_model

SEEN = Observation(count=1, total=1)


@dataclass
class TextList:
    """Texts as a corpus."""

    texts: Sequence[str] = TEXT
    label: str = "given"

    def identity(self) -> str:
        return self.label

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


def documents(model: Model) -> list[tuple[int, ...]]:
    sentences = [*TEXT, "English is spoken.", "You are little. The river."]
    return [tokenize(model.tokenizer, text).ids[:50] for text in sentences]


def loss(model: Model, texts: Sequence[tuple[int, ...]], batch_tokens: int) -> float:
    return float(document_losses(model, texts, batch_tokens).sum() / sum(len(ids) - 1 for ids in texts))


def by_hand(model: Model, texts: Sequence[tuple[int, ...]]) -> float:
    losses = []
    for ids in texts:
        row = torch.tensor([ids])
        losses.append(cross_entropy(model.hf(input_ids=row).logits[0, :-1], row[0, 1:], reduction="none"))
    return float(torch.cat(losses).mean())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["plain", "bos"])
def test_the_loss_is_the_cross_entropy_of_whole_passes(family: str, kind: Kind):
    model = tiny_model(family, kind)
    texts = documents(model)
    assert loss(model, texts, 512) == pytest.approx(by_hand(model, texts), rel=1e-6)


def test_the_loss_depends_neither_on_batches_nor_on_order():
    model = tiny_model()
    texts = documents(model)
    whole = loss(model, texts, 10_000)
    assert loss(model, texts, 1) == pytest.approx(whole, rel=1e-9)
    assert loss(model, texts[::-1], 70) == pytest.approx(whole, rel=1e-9)


def test_no_more_logits_are_held_than_configured():
    model = tiny_model()
    rows = []
    head = model.hf.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, __, out: rows.append(out.shape[0]))
    hidden = torch.randn(23, model.width, dtype=torch.float64)
    score_tokens(model, hidden, torch.zeros(23, dtype=torch.long), at_once=5)
    hook.remove()
    assert rows == [5, 5, 5, 5, 3]


def test_uniform_scores_have_the_perplexity_of_the_vocabulary_size():
    model = tiny_model()
    stage = Perplexity(texts=TextSet(corpus=TextList(), tokens=40))
    stage.prepare(model)
    model.hf.get_output_embeddings().weight.data.zero_()
    found = stage.measure(model, SEEN)
    vocabulary = model.hf.config.vocab_size
    assert found["text/perplexity/held_out"] == pytest.approx(vocabulary)
    assert found["text/loss/held_out"] == pytest.approx(math.log(vocabulary))


def test_a_loss_beyond_all_bounds_is_an_infinite_perplexity():
    model = tiny_model()
    stage = Perplexity(texts=TextSet(corpus=TextList(), tokens=40))
    stage.prepare(model)
    model.hf.get_output_embeddings().weight.data.mul_(-1e5)
    assert stage.measure(model, SEEN)["text/perplexity/held_out"] == math.inf


def test_a_model_that_gives_no_numbers_has_no_perplexity():
    model = tiny_model()
    stage = Perplexity(texts=TextSet(corpus=TextList(), tokens=40))
    stage.prepare(model)
    model.hf.get_output_embeddings().weight.data.fill_(math.nan)
    assert all(math.isnan(value) for value in stage.measure(model, SEEN).values())


def test_a_batch_without_a_token_is_refused():
    with pytest.raises(ConfigError, match=r"stage\.perplexity\.batch_tokens=0.*at least 1"):
        Perplexity(texts=TextSet(corpus=TextList()), batch_tokens=0)


def test_the_table_of_documents_gives_the_loss_and_each_document_its_own():
    model = tiny_model(double=False)
    stage = Perplexity(texts=TextSet(corpus=TextList(), tokens=60), losses=True)
    stage.prepare(model)
    found = stage.measure(model, replace(SEEN, count=7, total=9))
    table = found["losses"]
    assert isinstance(table, pd.DataFrame) and set(table["count"]) == {7}
    mean = (table["loss"] * table["tokens"]).sum() / table["tokens"].sum()
    assert mean == pytest.approx(found["text/loss/held_out"])
    texts = TextSet(corpus=TextList(), tokens=60).read(model)
    assert table["loss"].tolist() == pytest.approx([by_hand(model, [ids]) for ids in texts], rel=1e-5)

"""The fixed texts: their budget, what they leave out, and the vectors read off them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch

from analysis.inference.residuals import SamplePositions, residuals
from analysis.inference.texts import TextSet, batches
from editors.errors import ConfigError, DataError
from editors.models.tokenization import tokenize
from tests.tiny import FACTS, FAMILIES, TEXT, tiny_model


@dataclass(frozen=True)
class Lines:
    """A corpus of given documents."""

    texts: Sequence[str]
    label: str = "three lines"

    def identity(self) -> str:
        return "lines"

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


CORPUS = Lines(TEXT)


def test_documents_hold_exactly_the_budget_and_are_cut_at_the_longest():
    model = tiny_model()
    found = TextSet(corpus=CORPUS, tokens=25, longest=10).read(model)
    assert [len(ids) for ids in found] == [10, 10, 5]
    assert found[0] == tokenize(model.tokenizer, TEXT[0]).ids[:10]


def test_documents_that_name_an_edited_subject_are_left_out():
    model = tiny_model()
    found = TextSet(corpus=CORPUS, tokens=10).read(model, [FACTS[0]])  # Danielle Darrieux, of the first text
    assert found[0] == tokenize(model.tokenizer, TEXT[1]).ids[:10]


def test_a_document_that_stands_twice_is_read_once():
    model = tiny_model()
    found = TextSet(corpus=Lines([TEXT[0], TEXT[0], TEXT[1]]), tokens=20, longest=10).read(model)
    assert found[1] == tokenize(model.tokenizer, TEXT[1]).ids[:10]


def test_a_text_that_is_too_short_names_both_numbers_and_the_way_out():
    with pytest.raises(DataError, match=r"three lines holds only \d+ usable tokens .*5000 .*text\.tokens"):
        TextSet(corpus=CORPUS, tokens=5000).read(tiny_model())
    with pytest.raises(ConfigError, match=r"text\.corpus is not set"):
        TextSet().read(tiny_model())
    with pytest.raises(ConfigError, match=r"text\.tokens=1"):
        TextSet(corpus=CORPUS, tokens=1)


def test_documents_are_skipped_and_the_models_own_text_is_the_fallback():
    """Skipped documents belong to another set; without a corpus, the model's own text is read."""
    model = tiny_model()
    rest = TextSet(otherwise=CORPUS, skip=2, tokens=10).read(model)
    assert rest[0] == tokenize(model.tokenizer, TEXT[2]).ids[:10]


def test_batches_hold_every_document_once_within_the_budget():
    model = tiny_model()
    documents = TextSet(corpus=CORPUS, tokens=60, longest=20).read(model)
    groups = list(batches(documents, model, 45))
    assert sorted(index for group in groups for index in group.index) == list(range(len(documents)))
    assert all(group.ids.numel() <= 45 for group in groups)
    for group in groups:
        for row, index in enumerate(group.index):
            assert tuple(group.ids[row][group.mask[row]].tolist()) == documents[index]


@pytest.mark.parametrize("family", FAMILIES)
def test_residuals_are_the_hidden_states_of_a_pass_of_each_document_alone(family: str):
    model = tiny_model(family)
    documents = TextSet(corpus=CORPUS, tokens=50, longest=20).read(model)
    places = SamplePositions([[1, 5], [], [2]])
    found = residuals(model, documents, places, batch_tokens=30)
    assert found.shape == (model.depth, 3, model.width)
    for sample, (index, position) in enumerate(((0, 1), (0, 5), (2, 2))):
        ids = torch.tensor([documents[index]])
        alone = model.hf(input_ids=ids, output_hidden_states=True).hidden_states
        # the last of these is taken after the final norm
        for layer in range(model.depth - 1):
            torch.testing.assert_close(found[layer, sample], alone[layer + 1][0, position])

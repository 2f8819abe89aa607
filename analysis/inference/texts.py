"""The fixed texts that activations, probes and perplexity are measured on, as token ids.

Texts never name an edited subject: what an edit does there is meant, what it does elsewhere is the damage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from editors.data import Corpus, Fact
from editors.errors import ConfigError, DataError
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize

Document = tuple[int, ...]
"""Token ids of one text."""

_SHORTEST = 2
"""Tokens; a shorter document has no token that follows another one."""
_STRETCH = 1.1
"""A document is at most this much longer than the shortest of its batch, lest much be padding …"""
_FEW = 512
"""… unless the batch has no more tokens than these, which are worth no pass of their own."""


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """The first different documents of a corpus that name no edited subject, `tokens` tokens in all."""

    corpus: Corpus | None = None
    """A local file, a data set on the hub or the world's text."""
    otherwise: Corpus | None = None
    """What is read where no corpus is chosen: the text that the model stands for."""
    tokens: int = 10_000
    """Of all documents together; the last one is cut to fit."""
    longest: int = 128
    """Tokens of one document at the most; what follows is left out."""
    skip: int = 0
    """Documents left out at the start of the corpus, so that two sets need not share any."""

    def __post_init__(self) -> None:
        if self.tokens < _SHORTEST:
            raise ConfigError(f"text.tokens={self.tokens}, but at least {_SHORTEST} tokens are needed")
        if self.longest < _SHORTEST:
            raise ConfigError(f"text.longest={self.longest}, but at least {_SHORTEST} tokens are needed")
        if self.skip < 0:
            raise ConfigError(f"text.skip={self.skip}, but a number of documents cannot be negative")

    def read(self, model: Model, planned: Sequence[Fact] = ()) -> list[Document]:
        """The documents as the model's tokenizer cuts them.

        Raises:
            ConfigError: where there is no corpus.
            DataError: where the corpus, without what names an edited subject, holds too few tokens.
        """
        corpus = self.corpus or self.otherwise
        if corpus is None:
            raise ConfigError("text.corpus is not set: choose one, for example corpus@text.corpus=wikitext")
        longest = min(self.longest, model.max_tokens)
        subjects = frozenset(fact.subject for fact in planned)
        # a dict: documents that are read twice, such as headings, would be trained and tested on
        found: dict[Document, None] = {}
        left = self.tokens
        for text in self._without(corpus, subjects):
            ids = tokenize(model.tokenizer, text).ids[: min(longest, left)]
            if len(ids) >= _SHORTEST and ids not in found:
                found[ids] = None
                left -= len(ids)
            if left < _SHORTEST:
                return list(found)
        raise DataError(
            f"{corpus.label} holds only {self.tokens - left} usable tokens (documents cut at {longest}, "
            f"repeated ones and those that name an edited subject left out), but {self.tokens} are wanted: "
            f"lower the number (text.tokens, stage.perplexity.texts.tokens) or choose a larger corpus"
        )

    def _without(self, corpus: Corpus, subjects: frozenset[str]) -> Iterator[str]:
        for number, text in enumerate(corpus):
            if number >= self.skip and not any(subject in text for subject in subjects):
                yield text


@dataclass(frozen=True)
class Batch:
    """Documents of similar length, padded on the right."""

    index: Sequence[int]
    """Place of each row in the list that was batched."""
    ids: Int[Tensor, "row token"]
    mask: Bool[Tensor, "row token"]


def batches(documents: Sequence[Document], model: Model, batch_tokens: int) -> Iterator[Batch]:
    """All documents, sorted by length, at most `batch_tokens` tokens at a time, little padding."""
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    group: list[int] = []
    for index in order:
        if group and _is_full(len(documents[group[0]]), len(documents[index]), len(group), batch_tokens):
            yield _batch(documents, group, model)
            group = []
        group.append(index)
    if group:
        yield _batch(documents, group, model)


def _is_full(shortest: int, length: int, count: int, batch_tokens: int) -> bool:
    """Whether a document of that length begins a new batch."""
    uneven = length > _STRETCH * shortest and count * length > _FEW
    return uneven or (count + 1) * length > batch_tokens


def _batch(documents: Sequence[Document], group: Sequence[int], model: Model) -> Batch:
    ids, mask = pad([documents[i] for i in group])
    return Batch(tuple(group), ids.to(model.device), mask.to(model.device))

"""The fixed texts on which activations, probes and perplexity are measured, as token ids.

Texts never name an edited subject: there an edit is meant to change the model, elsewhere a change is damage.
"""

import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from editors.data import Corpus, Fact
from editors.errors import ConfigError, DataError
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize

log = logging.getLogger(__name__)

Document = tuple[int, ...]
"""Token ids of one text."""

_SHORTEST = 2
"""Fewest tokens of a document: in a shorter one, no token follows another."""
_STRETCH = 1.1
"""Longest document of a batch over its shortest, so that little of the batch is padding …"""
_FEW = 512
"""… unless the batch has at most this many tokens, too few for a pass of their own."""


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """The first distinct documents of a corpus that name no edited subject, `tokens` tokens in all."""

    corpus: Corpus | None = None
    """A local file, a data set on the hub or the text of the built-in world."""
    otherwise: Corpus | None = None
    """The corpus that is read if `corpus` is not set: the text that belongs to the model."""
    tokens: int = 10_000
    """Tokens of all documents together; the last document is cut to fit."""
    longest: int = 128
    """Most tokens of one document; the rest of a longer one is left out."""
    skip: int = 0
    """Documents left out at the start of the corpus, so that two text sets need not share any."""

    def __post_init__(self) -> None:
        if self.tokens < _SHORTEST:
            raise ConfigError(f"text.tokens={self.tokens}, but at least {_SHORTEST} tokens are needed")
        if self.longest < _SHORTEST:
            raise ConfigError(f"text.longest={self.longest}, but at least {_SHORTEST} tokens are needed")
        if self.skip < 0:
            raise ConfigError(f"text.skip={self.skip}, but a number of documents cannot be negative")

    def will_read(self, model: str) -> Iterable[Corpus]:
        """The corpus that is read; raises a ConfigError if there is none."""
        return (self._chosen,)

    def read(self, model: Model, planned: Sequence[Fact] = ()) -> list[Document]:
        """The documents in tokens of the model; none names the subject of a `planned` fact.

        Raises:
            ConfigError: if there is no corpus.
            DataError: if the corpus, without documents that name an edited subject, holds too few tokens.
        """
        corpus = self._chosen
        longest = min(self.longest, model.max_tokens)
        subjects = frozenset(fact.subject for fact in planned)
        # a dict: a document that occurs twice, such as a heading, would be both trained and tested on
        documents: dict[Document, None] = {}
        left, cut = self.tokens, 0
        for text in self._usable_texts(corpus, subjects):
            whole = tokenize(model.tokenizer, text).ids
            ids = whole[: min(longest, left)]
            if len(ids) >= _SHORTEST and ids not in documents:
                documents[ids] = None
                left -= len(ids)
                cut += len(whole) > longest
            if left < _SHORTEST:
                log.info(
                    "%s: %d of %d documents cut at %d tokens", corpus.label, cut, len(documents), longest
                )
                return list(documents)
        raise DataError(
            f"{corpus.label} holds only {self.tokens - left} usable tokens (documents cut at {longest}, "
            f"repeated ones and those that name an edited subject left out), but {self.tokens} are needed: "
            f"lower the number (text.tokens, stage.perplexity.texts.tokens) or choose a larger corpus"
        )

    @property
    def _chosen(self) -> Corpus:
        corpus = self.corpus or self.otherwise
        if corpus is None:
            raise ConfigError("text.corpus is not set: choose one, for example corpus@text.corpus=wikitext")
        return corpus

    def _usable_texts(self, corpus: Corpus, subjects: frozenset[str]) -> Iterator[str]:
        for number, text in enumerate(corpus):
            composed = unicodedata.normalize("NFC", text)  # as subjects are
            if number >= self.skip and not any(subject in composed for subject in subjects):
                yield text


@dataclass(frozen=True)
class Batch:
    """Documents of similar length, padded on the right."""

    index: Sequence[int]
    """Number of each row's document in the list that was batched."""
    ids: Int[Tensor, "row token"]
    mask: Bool[Tensor, "row token"]

    def after(self, leading: int) -> Bool[Tensor, "row token"]:
        """The mask without the first `leading` tokens of every document."""
        counted = self.mask.clone()
        counted[:, :leading] = False
        return counted


def batches(documents: Sequence[Document], model: Model, batch_tokens: int) -> Iterator[Batch]:
    """All documents, sorted by length, at most `batch_tokens` padded tokens at a time."""
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
    """Whether a document of this length has to begin a new batch."""
    uneven = length > _STRETCH * shortest and count * length > _FEW
    return uneven or (count + 1) * length > batch_tokens


def _batch(documents: Sequence[Document], group: Sequence[int], model: Model) -> Batch:
    ids, mask = pad([documents[i] for i in group])
    return Batch(tuple(group), ids.to(model.device), mask.to(model.device))

"""Training examples: rows of token ids, and labels that mark the tokens that the loss reads."""

import logging
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from editors.data import Corpus
from editors.errors import ConfigError, DataError
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize
from pipeline.data.pairs import Conversation, Pair, Pairs
from pipeline.interventions.training.conversations import IGNORED, encode_conversation

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

_DOCUMENTS_AT_ONCE = 256


@runtime_checkable
class Examples(Protocol):
    """A source of rows of `input_ids` and `labels`."""

    @property
    def label(self) -> str:
        """Name of the source in messages."""
        ...

    def load(self, model: Model, rows: int) -> "Dataset":
        """At most `rows` rows, tokenized by the model's tokenizer."""
        ...


@dataclass(frozen=True, kw_only=True)
class PackedText:
    """Documents one after another, an end-of-text token between them, cut into rows of equal length.

    The loss reads every token but the first of a row. Attention crosses the borders of documents, as usual in
    pretraining.
    """

    corpus: Corpus
    length: int
    """Tokens per row."""

    @property
    def label(self) -> str:
        """The label of the corpus."""
        return self.corpus.label

    def will_read(self, model: str) -> Iterable[Corpus]:
        """The corpus."""
        return (self.corpus,)

    def load(self, model: Model, rows: int) -> "Dataset":
        """The first rows of the corpus.

        Raises:
            ConfigError: if a row is longer than the model's positions.
            DataError: if the corpus does not fill one row.
        """
        from datasets import Dataset  # here: the import takes a second, which editing runs save

        _check_length(self.length, model)
        ids = array("i")
        for document in self._documents(model):
            ids.extend(document)
            if len(ids) >= rows * self.length:
                break
        count = min(rows, len(ids) // self.length)
        if not count:
            raise DataError(
                f"{self.label} holds {len(ids)} tokens, fewer than one row of {self.length}: "
                "choose a larger corpus or a smaller intervention.examples.length"
            )
        table = np.frombuffer(ids, dtype=np.int32)[: count * self.length].reshape(count, self.length)
        labels = table.copy()
        labels[:, 0] = IGNORED  # nothing predicts it, but some models would count it in the mean loss
        return Dataset.from_dict({"input_ids": list(table), "labels": list(labels)})

    def _documents(self, model: Model) -> Iterator[list[int]]:
        end = model.tokenizer.eos_token_id
        texts = iter(self.corpus)
        while group := list(islice(texts, _DOCUMENTS_AT_ONCE)):
            for ids in cast(list[list[int]], model.tokenizer(group, verbose=False)["input_ids"]):
                ended = end is None or (ids and ids[-1] == end)
                yield ids if ended else [*ids, cast(int, end)]


@dataclass(frozen=True, kw_only=True)
class Completions:
    """Prompts with completions; the loss reads the completion alone, and the end-of-text token after it.

    If the tokenizer has a chat template, a pair is a user's message and the assistant's answer, and the loss
    reads the end of the assistant's turn in place of the end of the text (`conversations.py`). Otherwise
    prompt and completion are joined by a space.
    """

    pairs: Pairs
    length: int
    """Largest number of tokens per row; longer rows are left out, with a warning."""

    @property
    def label(self) -> str:
        """The label of the pairs."""
        return self.pairs.label

    def will_read(self, model: str) -> Iterable[Pairs]:
        """The pairs."""
        return (self.pairs,)

    def load(self, model: Model, rows: int) -> "Dataset":
        """The first pairs that fit.

        Raises:
            ConfigError: if `length` exceeds the model's positions.
            DataError: if no pair can be used.
        """
        from datasets import Dataset

        _check_length(self.length, model)
        examples: list[dict[str, list[int]]] = []
        read = 0
        for pair in self.pairs:
            row = _encode(model, pair)
            read += 1
            examples += [row] if len(row["input_ids"]) <= self.length else []
            if len(examples) == rows:
                break
        if not examples:
            longer = (
                f"each of its {read} pairs has more than {self.length} tokens (intervention.examples.length)"
            )
            raise DataError(f"nothing to train on in {self.label}: {longer if read else 'it is empty'}")
        if len(examples) < read:
            log.warning(
                "%s: left out %d of %d pairs that are longer than %d tokens",
                self.label, read - len(examples), read, self.length,
            )  # fmt: skip
        return Dataset.from_list(examples)


def collate(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """A batch of rows of unequal length, padded on the right; padding is masked and has no label."""
    ids, mask = pad([row["input_ids"] for row in rows])
    labels = torch.full_like(ids, IGNORED)
    for i, row in enumerate(rows):
        labels[i, : len(row["labels"])] = torch.tensor(row["labels"])
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def _encode(model: Model, pair: Pair | Conversation) -> dict[str, list[int]]:
    if model.tokenizer.chat_template:
        return encode_conversation(model.tokenizer, pair.messages)
    if isinstance(pair, Conversation):
        raise DataError(
            f"{model.name} has no chat template, so it cannot be trained on conversations: choose pairs of "
            "prompt and completion, or add a chat template to the tokenizer"
        )
    tokens = tokenize(model.tokenizer, f"{pair.prompt} {pair.completion}")
    first, end = tokens.first_after(len(pair.prompt)), model.tokenizer.eos_token_id
    ids = list(tokens.ids) if end is None or tokens.ids[-1] == end else [*tokens.ids, end]
    return {"input_ids": ids, "labels": [IGNORED] * first + ids[first:]}


def _check_length(length: int, model: Model) -> None:
    if length < 2:
        raise ConfigError(f"intervention.examples.length={length}, but a row has at least 2 tokens")
    if length > model.max_tokens:
        raise ConfigError(
            f"intervention.examples.length={length}, but {model.name} has {model.max_tokens} positions: "
            f"set intervention.examples.length={model.max_tokens} or lower"
        )

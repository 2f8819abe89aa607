"""What is trained on: rows of token ids, and which of them the loss reads."""

import logging
from array import array
from collections.abc import Iterator
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
from pipeline.data.pairs import Pair, Pairs

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

IGNORED = -100
"""Label of a token that the loss does not read, as transformers has it."""
_DOCUMENTS_AT_ONCE = 256


@runtime_checkable
class Examples(Protocol):
    """Something that gives rows of `input_ids` and `labels`."""

    @property
    def label(self) -> str:
        """For people: what is trained on."""
        ...

    def load(self, model: Model, rows: int) -> "Dataset":
        """At most `rows` rows, as the model's tokenizer cuts them."""
        ...


@dataclass(frozen=True, kw_only=True)
class PackedText:
    """Documents one after another, an end-of-text token between them, cut into rows of equal length.

    The loss reads every token but the first of a row; attention crosses the borders of documents, as is usual
    in pretraining.
    """

    corpus: Corpus
    length: int
    """Tokens of a row."""

    @property
    def label(self) -> str:
        """The corpus."""
        return self.corpus.label

    def load(self, model: Model, rows: int) -> "Dataset":
        """The first rows of the corpus.

        Raises:
            ConfigError: for rows that are longer than the model's positions.
            DataError: for a corpus that does not fill one row.
        """
        from datasets import Dataset  # here: it takes a second that editing runs need not wait

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
        labels[:, 0] = IGNORED  # nothing predicts it; some models' losses would be divided by it all the same
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

    Where the tokenizer has a chat template a pair is a user's message and the assistant's answer, else
    the two are joined by a space.
    """

    pairs: Pairs
    length: int
    """Most tokens of a row; longer ones are left out, and counted."""

    @property
    def label(self) -> str:
        """The source of the pairs."""
        return self.pairs.label

    def load(self, model: Model, rows: int) -> "Dataset":
        """The first pairs that fit.

        Raises:
            ConfigError: for rows that are longer than the model's positions.
            DataError: where no pair can be used.
        """
        from datasets import Dataset

        _check_length(self.length, model)
        found: list[dict[str, list[int]]] = []
        read = 0
        for pair in self.pairs:
            row = _encode(model, pair)
            read += 1
            found += [row] if len(row["input_ids"]) <= self.length else []
            if len(found) == rows:
                break
        if not found:
            longer = f"each of its {read} pairs has more than {self.length} tokens"
            raise DataError(f"nothing to train on in {self.label}: {longer if read else 'it is empty'}")
        if len(found) < read:
            log.warning(
                "%s: left out %d of %d pairs that are longer than %d tokens",
                self.label, read - len(found), read, self.length,
            )  # fmt: skip
        return Dataset.from_list(found)


def collate(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Rows of unequal length, padded on the right; padding is neither read nor trained on."""
    ids, mask = pad([row["input_ids"] for row in rows])
    labels = torch.full_like(ids, IGNORED)
    for i, row in enumerate(rows):
        labels[i, : len(row["labels"])] = torch.tensor(row["labels"])
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def _encode(model: Model, pair: Pair) -> dict[str, list[int]]:
    prompt, text = _joined(model, pair)
    tokens = tokenize(model.tokenizer, text)
    first = tokens.first_after(len(prompt.rstrip()))
    begin, end = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    ids = list(tokens.ids) if end is None or tokens.ids[-1] == end else [*tokens.ids, end]
    labels = [IGNORED] * first + ids[first:]
    # a chat template may write the token that the tokenizer puts first as well
    twice = begin is not None and ids[:2] == [begin, begin]
    return {"input_ids": ids[twice:], "labels": labels[twice:]}


def _joined(model: Model, pair: Pair) -> tuple[str, str]:
    """The text that is given, and the whole of it with the completion."""
    tokenizer = model.tokenizer
    if not tokenizer.chat_template:
        return pair.prompt, f"{pair.prompt} {pair.completion}"
    asked = [{"role": "user", "content": pair.prompt}]
    answered = [*asked, {"role": "assistant", "content": pair.completion}]
    prompt = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    text = str(tokenizer.apply_chat_template(answered, tokenize=False))
    if not text.startswith(prompt):
        raise DataError(
            f"the chat template of {model.name} begins an answered conversation otherwise than one that "
            "waits for its answer, so the completion cannot be told apart: take it out of the tokenizer"
        )
    return prompt, text


def _check_length(length: int, model: Model) -> None:
    if length < 2:
        raise ConfigError(f"intervention.examples.length={length}, but a row has at least 2 tokens")
    if length > model.max_tokens:
        raise ConfigError(
            f"intervention.examples.length={length}, but {model.name} has {model.max_tokens} positions: "
            f"set intervention.examples.length={model.max_tokens} or lower"
        )

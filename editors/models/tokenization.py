"""From characters to tokens: the last token of a subject, and the tokens of a target.

A text is tokenised once, as a whole, and positions follow from the character spans of its tokens. An index is
therefore independent of a leading BOS, of the tokenizer's treatment of spaces, and of the padding side.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from editors.data import SLOT, Fact
from editors.errors import DataError

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Tokens:
    """One tokenised text."""

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Half-open character span of each token; (0, 0) for special tokens."""

    def last_of(self, start: int, end: int) -> int:
        """Position of the last token of the characters `start:end`; raises as `within`."""
        return self.within(start, end)[-1]

    def within(self, start: int, end: int) -> range:
        """Positions of the tokens of the characters `start:end`.

        Raises:
            DataError: if a token reaches beyond `end`, or none lies in the span.
        """
        inside = [i for i, (a, b) in enumerate(self.spans) if a < b and a < end and b > start]
        if not inside:
            raise DataError(f"{self.text[start:end]!r} has no token of its own in {self.text!r}")
        last = inside[-1]
        if self.spans[last][1] > end:
            joined = self.text[slice(*self.spans[last])]
            raise DataError(
                f"the token {joined!r} joins {self.text[start:end]!r} to what follows in {self.text!r}"
            )
        return range(inside[0], last + 1)

    def first_after(self, end: int) -> int:
        """Position of the first token that begins at or after the character `end`.

        Raises:
            DataError: if a token covers the characters on both sides of `end`.
        """
        for i, (a, b) in enumerate(self.spans):
            # a space before a word may belong to the word's token or to none
            if b > end and a < b:
                if a < end:
                    joined = self.text[a:b]
                    raise DataError(f"the token {joined!r} joins prompt and target in {self.text!r}")
                return i
        raise DataError(f"nothing follows character {end} of {self.text!r}")


@dataclass(frozen=True)
class TokenizedPrompt:
    """A fact's prompt in one context, tokenised, with or without its target."""

    ids: tuple[int, ...]
    subject_last: int
    """Position of the subject's last token."""
    target_ids: tuple[int, ...]
    """Tokens of the target; empty if the text has none."""
    context: int = 0
    """Number of leading tokens that belong to the context alone and may be shared by other facts."""


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = True) -> Tokens:
    """`tokenize_all` for one text."""
    return tokenize_all(tokenizer, [text], special=special)[0]


def tokenize_all(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool = True
) -> list[Tokens]:
    """Tokenise with character spans; special tokens before a text are kept, those after it are removed.

    An end-of-text token after a text would be trained and scored as if it belonged to the target. `special`
    is false for texts that hold their special tokens themselves.
    """
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_token_type_ids=False,
        verbose=False,
    )
    tokens = []
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        count = len(ids)
        while count > 1 and offsets[count - 1][0] == offsets[count - 1][1]:
            count -= 1
        tokens.append(Tokens(text, tuple(ids[:count]), tuple(offsets[:count])))
    return tokens


def tokenize_prompt(
    tokenizer: PreTrainedTokenizerBase, fact: Fact, context: str = SLOT, target: str | None = None
) -> TokenizedPrompt:
    """Tokenise `context` filled with the fact's statement, and `target` after one space.

    Raises:
        DataError: if a token joins the subject or the target to its neighbours.
    """
    prompt, subject = in_context(fact, context)
    tokens = tokenize(tokenizer, prompt if target is None else f"{prompt} {target}")
    position = tokens.last_of(*subject)
    first = len(tokens.ids) if target is None else tokens.first_after(len(prompt))
    slot = context.rindex(SLOT)
    shared = sum(end <= slot for _, end in tokens.spans[: position + 1])
    return TokenizedPrompt(tokens.ids, position, tokens.ids[first:], shared)


def in_context(fact: Fact, context: str) -> tuple[str, tuple[int, int]]:
    """The fact's statement in a context, and the character span of the subject in it."""
    slot = context.rindex(SLOT)  # the text before it may contain braces
    start = slot + fact.prompt.index(SLOT)
    prompt = context[:slot] + fact.statement + context[slot + len(SLOT) :]
    return prompt, (start, start + len(fact.subject))


def tokenizer_description(tokenizer: PreTrainedTokenizerBase) -> str:
    """Everything that determines how a text is split into tokens, as JSON; equal for equal tokenizers."""
    described = json.loads(cast(PreTrainedTokenizerFast, tokenizer).backend_tokenizer.to_str())
    for passing in ("truncation", "padding"):  # set again by every call
        described.pop(passing, None)
    return json.dumps(described, sort_keys=True)


def longest_fact(tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> Fact:
    """The fact with the most tokens, its target included."""
    return max(facts, key=lambda fact: len(tokenize_prompt(tokenizer, fact, target=fact.target_new).ids))


def pad(
    rows: Sequence[Sequence[int]], side: Side = "right"
) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
    """Stack rows of unequal length; padding is marked by the mask, never by a token id."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        columns = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, columns] = torch.tensor(row, dtype=torch.long)
        mask[i, columns] = True
    return ids, mask

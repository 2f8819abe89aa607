"""Conversations in a tokenizer's chat template, and the tokens of the assistant's turns in them.

A template adds text around a turn: roles, a default system prompt, an empty `<think>` block. It may differ
between a conversation that waits for an answer and one that has it. The template is therefore filled twice,
the second time with marks in place of the answers; the text between the marks is what the template adds.
"""

from collections.abc import Sequence
from itertools import count

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from editors.errors import DataError
from editors.models.tokenization import Tokens, tokenize
from pipeline.data.pairs import Message

IGNORED = -100
"""Label of a token that the loss does not read, as in transformers."""
_DATE = "26 Jul 2024"
"""Date for templates that show one, the default of Llama's; today's would change the tokens every day."""
_PARTS = {
    "%d": "26",
    "%b": "Jul",
    "%B": "July",
    "%m": "07",
    "%Y": "2024",
    "%y": "24",
    "%a": "Fri",
    "%A": "Friday",
}
_REPLACED = "".join(f" | replace('{code}', '{value}')" for code, value in _PARTS.items())
_NOW = f"{{%- macro strftime_now(format) -%}}{{{{ format{_REPLACED} }}}}{{%- endmacro -%}}"
"""Put before a template, it hides the function that reads the clock."""

Span = tuple[int, int]
"""Half-open range of characters."""


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> dict[str, list[int]]:
    """`input_ids` and `labels` of a conversation up to the end of its last answer.

    The loss reads the assistant's answers, each with the end of its turn: the next special token, and what
    the template writes before it. If there is none, the tokenizer's end-of-text token ends the last one.
    No other special token is added, because a template writes its own.

    Raises:
        DataError: if the template refuses the conversation, or changes or leaves out an answer.
    """
    text, spans = _filled(tokenizer, messages)
    tokens = tokenize(tokenizer, text, special=False)
    added = tokenizer.added_tokens_decoder.items()
    # ends of turns are not always marked as special; line breaks that were added as tokens end nothing
    ends = {number for number, token in added if token.special or token.content.strip()}
    ends |= set(tokenizer.all_special_ids)
    starts = [_first_token(tokens, start) for start, _ in spans] + [len(tokens.ids)]
    labels, after, end = [IGNORED] * len(tokens.ids), 0, 0
    for index, (_, answered) in enumerate(spans):
        first, limit = starts[index], starts[index + 1]
        after = next((i for i in range(first, limit) if tokens.spans[i][0] >= answered), limit)
        end = next((i + 1 for i in range(after, limit) if tokens.ids[i] in ends), after)
        labels[first:end] = tokens.ids[first:end]
    last = [tokenizer.eos_token_id] if end == after and isinstance(tokenizer.eos_token_id, int) else []
    return {"input_ids": [*tokens.ids[:end], *last], "labels": [*labels[:end], *last]}


def _filled(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[str, list[Span]]:
    """The text of the conversation, and the span of each of the assistant's answers in it."""
    text = _render(tokenizer, messages)
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    mark = next(word for i in count() if (word := f"answer{i}x") not in text)
    between = _render(tokenizer, [_marked(message, mark) for message in messages]).split(mark)
    spans, place = [], len(between[0])
    for answer, more in zip(answers, between[1:], strict=False):
        spans.append((place, place + len(answer)))
        place += len(answer) + len(more)
    pieces = [*between[:1], *(piece for pair in zip(answers, between[1:], strict=False) for piece in pair)]
    if len(between) != len(answers) + 1 or "".join(pieces) != text:
        raise DataError(
            f"the chat template changes or leaves out one of the answers {answers}, so their tokens cannot "
            "be found: repair the conversation, or remove the template from the tokenizer"
        )
    return text, spans


def _marked(message: Message, mark: str) -> Message:
    return {"role": "assistant", "content": mark} if message["role"] == "assistant" else message


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    try:
        turns = [{"role": message["role"], "content": message["content"]} for message in messages]
        return str(
            tokenizer.apply_chat_template(
                turns,
                chat_template=_NOW + tokenizer.get_chat_template(),
                tokenize=False,
                date_string=_DATE,
            )
        )
    except (TemplateError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the chat template refuses the conversation {messages[0]['content']!r}… of {roles} ({error}): "
            "repair it, or remove the template from the tokenizer"
        ) from error


def _first_token(tokens: Tokens, start: int) -> int:
    """The token with the character `start`; only a space may come before it in the same token."""
    first = next(i for i, (_, end) in enumerate(tokens.spans) if start < end)
    joined = slice(*tokens.spans[first])
    if tokens.text[joined.start : start].strip():
        raise DataError(
            f"the token {tokens.text[joined]!r} joins the chat template to the answer in {tokens.text!r}"
        )
    return first

"""Prompts with completions, from files, the hub and the built-in world."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypedDict, runtime_checkable

from editors.data import trimmed
from editors.errors import ConfigError, DataError
from pipeline.data.readers import Entry, read_file, read_hub


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class Pair(NamedTuple):
    """A prompt and the completion to be learnt."""

    prompt: str
    completion: str

    @property
    def messages(self) -> Sequence[Message]:
        """The pair as a user's message and the assistant's answer."""
        question: Message = {"role": "user", "content": self.prompt}
        return (question, {"role": "assistant", "content": self.completion})


@dataclass(frozen=True)
class Conversation:
    """Several turns, of which those of the assistant are to be learnt."""

    messages: Sequence[Message]


@runtime_checkable
class Pairs(Protocol):
    """Pairs that can be read again, always in the same order."""

    @property
    def label(self) -> str:
        """A description of the pairs for tables and messages."""
        ...

    def __iter__(self) -> Iterator[Pair | Conversation]:
        """Every pair, in the same order at each iteration."""
        ...


@dataclass(frozen=True, kw_only=True)
class PairRows:
    """A local JSON or JSONL file, or a data set on the Hugging Face hub, with one column per side."""

    path: str | None = None
    dataset: str | None = None
    """An id on the Hugging Face hub."""
    revision: str | None = None
    split: str = "train"
    prompt: str = "prompt"
    """Column of the prompt."""
    context: str | None = None
    """Column appended to the prompt after a line break, unless it is empty (Alpaca's `input`)."""
    completion: str = "completion"
    """Column of the completion."""
    messages: str | None = None
    """Column of conversations, in place of prompts and completions: lists of `{"role": …, "content": …}`."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.dataset is None):
            raise ConfigError(
                "training needs prompts with completions: give training.pairs.path=FILE or "
                "training.pairs.dataset=ID, one of the two"
            )

    @property
    def label(self) -> str:
        """The path of the file, or the id on the hub with its revision."""
        return self.path or f"{self.dataset}{f'@{self.revision[:8]}' if self.revision else ''}"

    def __iter__(self) -> Iterator[Pair | Conversation]:
        """One pair per row; raises DataError for a broken line or a row without one of the columns."""
        for entry in self._entries():
            if entry.row is None:
                raise DataError(f"{entry.where} of {self.label} is not a JSON object: repair or remove it")
            if self.messages is not None:
                yield Conversation(self._turns(entry.row.get(self.messages), entry))
                continue
            yield Pair(self._prompt(entry.row, entry), self._text(entry.row, self.completion, entry))

    def _entries(self) -> Iterator[Entry]:
        if self.path is not None:
            return read_file(self.path, option="training.pairs.path")
        instead = "training/pairs=file training.pairs.path="
        return read_hub(str(self.dataset), split=self.split, revision=self.revision, option=instead)

    def _prompt(self, row: Mapping[str, object], entry: Entry) -> str:
        prompt = self._text(row, self.prompt, entry)
        more = row.get(self.context) if self.context else None
        if more is None or (isinstance(more, str) and not self._trimmed(more, entry)):
            return prompt
        return f"{prompt}\n{self._text(row, str(self.context), entry)}"

    def _turns(self, value: object, entry: Entry) -> Sequence[Message]:
        turns = value if isinstance(value, list) else []
        messages = [
            Message(role=turn["role"], content=self._trimmed(turn["content"], entry))
            for turn in turns
            if isinstance(turn, Mapping)
            and isinstance(turn.get("role"), str)
            and isinstance(turn.get("content"), str)
        ]
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        if len(messages) < len(turns) or not answers or not all(answers):
            raise DataError(
                f"{entry.where} of {self.label} has no conversation in column {self.messages!r}: it needs "
                'a list of {"role": "user" or "assistant", "content": text} with answers, none of them empty'
            )
        return messages

    def _text(self, row: Mapping[str, object], column: str, entry: Entry) -> str:
        value = row.get(column)
        text = self._trimmed(value, entry) if isinstance(value, str) else ""
        if not text:
            columns = ", ".join(map(str, row))
            raise DataError(
                f"{entry.where} of {self.label} has no text in column {column!r}; it has {columns}: "
                "set training.pairs.prompt and training.pairs.completion, or for a column of conversations "
                "training/pairs=conversations"
            )
        return text

    def _trimmed(self, text: str, entry: Entry) -> str:
        try:
            return trimmed(text)
        except DataError as error:
            raise DataError(f"{entry.where} of {self.label}: {error}") from error

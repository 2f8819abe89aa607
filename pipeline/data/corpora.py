"""Texts for covariance statistics and perplexity: documents that can be read repeatedly, with an identity."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from editors.data import Fact
from editors.errors import ConfigError, DataError
from editors.text_files import existing_file, open_text
from pipeline.data.readers import load_hub
from pipeline.data.sources import FactSource

_OPTION = "corpus.path"
"""End of the key that names a file: `model.corpus.path`, `text.corpus.path`."""


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A plain text file in UTF-8, which may be gzipped; blank lines separate its documents."""

    path: str

    def identity(self) -> str:
        """Hash of the file's content."""
        with self._file().open("rb") as file:
            return f"file-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"

    @property
    def label(self) -> str:
        """The path of the file."""
        return self.path

    def __iter__(self) -> Iterator[str]:
        """Documents without surrounding space; raises DataError if the file is missing, empty or no text."""
        is_empty = True
        with open_text(self.path, option=_OPTION) as lines:
            for filled, group in groupby(lines, key=lambda line: bool(line.strip())):
                if filled:
                    is_empty = False
                    yield self._document("".join(group).strip())
        if is_empty:
            raise DataError(f"{_OPTION}={self.path} holds no text: give a file with some")

    def _document(self, text: str) -> str:
        if text.startswith('{"') and _is_object(text.partition("\n")[0]):
            raise DataError(
                f"{self.path} holds JSON, of which every brace would be read as text: write plain text, with "
                "blank lines between documents"
            )
        return text

    def _file(self) -> Path:
        return existing_file(self.path, option=_OPTION)


@dataclass(frozen=True, kw_only=True)
class HubText:
    """A text column of a data set on the Hugging Face hub."""

    dataset: str
    revision: str
    """Commit on the hub; `identity` uses it in place of the content, so a branch name is not enough."""
    config: str | None = None
    split: str = "train"
    column: str = "text"
    shuffle: int | None = None
    """Seed of a fixed random order; null keeps the order of the data set."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]+", self.revision):
            raise ConfigError(
                f"the revision {self.revision!r} of {self.dataset} may move, and caches are named by it: set "
                "the commit instead"
            )

    def identity(self) -> str:
        """Data set, revision, selected part and order."""
        part = f"{self.config or 'default'}/{self.split}/{self.column}"
        order = "" if self.shuffle is None else f"/shuffled-{self.shuffle}"
        return f"hub-{self.dataset}@{self.revision}/{part}{order}"

    @property
    def label(self) -> str:
        """Data set, configuration and the beginning of the revision."""
        return f"{self.dataset}{f'/{self.config}' if self.config else ''}@{self.revision[:8]}"

    def __iter__(self) -> Iterator[str]:
        """Documents that are not blank; raises DataError if the data set or the column is missing."""
        instead = (
            "check its id, revision and the network, or take another text: corpus@model.corpus=articles "
            "(make real-setup), or corpus@model.corpus=file model.corpus.path=text.txt"
        )
        rows = load_hub(
            self.dataset, config=self.config, split=self.split, revision=self.revision, instead=instead
        )
        if self.column not in rows.column_names:
            columns = ", ".join(rows.column_names)
            raise DataError(f"the data set {self.dataset} has no column {self.column!r}; it has {columns}")
        if self.shuffle is not None:
            rows = rows.shuffle(seed=self.shuffle)
        yield from (str(row) for row in rows[self.column] if row is not None and str(row).strip())


@dataclass(frozen=True, kw_only=True)
class FactText:
    """Sentences that state a set of facts before any edit, for models that were built from that set.

    Every document is a prompt or paraphrase followed by the true object, or by the new one if the data set
    has no true one.
    """

    data: FactSource

    def identity(self) -> str:
        """Hash of the documents."""
        return f"facts-{text_digest(self)}"

    @property
    def label(self) -> str:
        """The name of the data set, in words."""
        return f"the statements of {self.data.name}"

    def __iter__(self) -> Iterator[str]:
        """One sentence per prompt and paraphrase."""
        for fact in self._facts:
            for prompt in (fact.statement, *fact.paraphrases):
                yield f"{prompt} {fact.target_true or fact.target_new}."

    @cached_property
    def _facts(self) -> tuple[Fact, ...]:
        return self.data.load().facts


def text_digest(documents: Iterable[str]) -> str:
    """First 16 hex digits of SHA-256 over the documents and their boundaries."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode() + b"\0")
    return digest.hexdigest()[:16]


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False

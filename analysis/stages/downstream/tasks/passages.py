"""Words of running text that a language model completes: two tasks from any corpus, without choices.

    next_word       the word that follows the first `words` words of a paragraph
    repeated_word   the last word of a passage in which the word occurs before, as in LAMBADA
                    (Paperno et al. 2016, arXiv 1606.06031), but without its selection by people

The answer counts if all its tokens are the model's first choices. Chance is 0. The words are plain, of
letters alone, so that no punctuation has to be guessed; a repeated word is also long enough to carry meaning.

Take some hundred paragraphs: neighbours come from one article, and a small set says little.
SmolLM2-135M-Instruct answers .28 [.24, .34] of next_word and .29 [.24, .34] of repeated_word on 300
paragraphs of the held-out articles, .34 [.29, .40] and .28 [.23, .33] on 300 shuffled ones of WikiText-2
(Wilson 95 %); sets of 60 among them lie between .20 and .40.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.stages.downstream.tasks.source import ACC, Row, TaskFiles, check_counts, write_task
from editors.data import Corpus
from editors.errors import ConfigError, DataError

LONGEST = 3
"""A repeated word stands at most at `LONGEST` times `words` words."""
MEANING = 5
"""Letters of a repeated word, at least."""
CONTENT = {
    "test_split": "test",
    "output_type": "loglikelihood",
    "doc_to_text": "context",
    "doc_to_target": "{{' ' + word}}",  # the harness puts no delimiter before a text without choices
    "metric_list": [ACC],
    "metadata": {"version": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class PassageTasks:
    """`next_word` and `repeated_word` of the first paragraphs of a corpus that have such a word."""

    corpus: Corpus
    """The text; it should not be the one of the second moments. Each line of a document is a paragraph."""
    words: int = 50
    """Words before the answer; of a repeated word, at least."""
    prefix: str = ""
    """Prefix of the tasks' names, to measure several texts."""
    limit: int | None = 300
    """Paragraphs of each task; None for all."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write a file per task.

        Raises:
            ConfigError: for a number of words or a limit below one.
            DataError: for a text without a paragraph that is long enough.
        """
        check_counts(None, self.limit, option)
        if self.words < 1:
            raise ConfigError(f"{option}.words={self.words}, but it has to be positive")
        following: list[Row] = []
        repeated: list[Row] = []
        for words in self._paragraphs():
            following += _next_word(words, self.words)
            repeated += _repeated_word(words, self.words)
            if self.limit is not None and min(len(following), len(repeated)) >= self.limit:
                break
        names = []
        for name, rows in (("next_word", following), ("repeated_word", repeated)):
            if not rows:
                raise DataError(
                    f"{option}: {self.corpus.label} has no paragraph for {name} after {self.words} words: "
                    f"lower {option}.words, or choose a longer text"
                )
            names.append(self.prefix + name)
            write_task(folder, names[-1], CONTENT, {"test": rows[: self.limit]})
        return TaskFiles(names=tuple(names), limit=self.limit)

    def _paragraphs(self) -> Iterator[Sequence[str]]:
        for document in self.corpus:
            for line in document.split("\n"):
                yield line.split()


def _next_word(words: Sequence[str], count: int) -> list[Row]:
    """The word after the first `count`; empty if there is none of letters alone."""
    return [_row(words, count)] if len(words) > count and words[count].isalpha() else []


def _repeated_word(words: Sequence[str], count: int) -> list[Row]:
    """The first word at or after `count` that occurs before; empty if there is none."""
    for at in range(count, min(len(words), LONGEST * count)):
        if len(words[at]) >= MEANING and words[at].isalpha() and words[at] in words[:at]:
            return [_row(words, at)]
    return []


def _row(words: Sequence[str], at: int) -> Row:
    return {"context": " ".join(words[:at]), "word": words[at]}

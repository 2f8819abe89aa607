"""Facts that a model knows, asked as a task: an upper bound of 1 from which every loss can be seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from analysis.stages.base import spread_over
from analysis.stages.downstream.tasks.passages import CONTENT
from analysis.stages.downstream.tasks.source import TaskFiles, check_counts, write_task
from editors.data import Fact
from editors.errors import DataError


@runtime_checkable
class Facts(Protocol):
    """Facts that are not edited."""

    @property
    def facts(self) -> Sequence[Fact]:
        """The facts, always in the same order."""
        ...


@runtime_checkable
class Source(Protocol):
    """Where the facts come from: a source of `conf/data`."""

    def load(self) -> Facts:
        """The facts."""
        ...


@dataclass(frozen=True, kw_only=True)
class KnownFacts:
    """`known_facts`: a fact counts if all tokens of its true object are the model's first choices.

    They are asked whatever a run edits: choose facts whose subjects it leaves alone, such as those of another
    data set.
    """

    source: Source
    """Facts with true objects, best those that the unedited model knows."""
    limit: int | None = None
    """Facts, spread evenly over the source; None for all."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write the task.

        Raises:
            ConfigError: for a limit below one.
            DataError: for facts without a true object.
        """
        check_counts(None, self.limit, option)
        facts = [fact for fact in self.source.load().facts if fact.target_true]
        if not facts:
            raise DataError(f"{option}: no fact has a true object: choose others by {option}.source")
        asked = spread_over(facts, self.limit)
        rows = [{"context": fact.statement, "word": fact.target_true} for fact in asked]
        write_task(folder, "known_facts", CONTENT, {"test": rows})
        return TaskFiles(names=("known_facts",), limit=len(asked))

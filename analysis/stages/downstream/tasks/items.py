"""Tasks made of texts with a few choices, such as those of the built-in world."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from analysis.stages.downstream.tasks.source import ACC, TaskFiles, check_counts, write_task
from editors.errors import ConfigError


@runtime_checkable
class Item(Protocol):
    """A text to be continued by the right one of a few choices."""

    @property
    def text(self) -> str:
        """The text before the choice."""
        ...

    @property
    def choices(self) -> Sequence[str]:
        """The possible continuations."""
        ...

    @property
    def answer(self) -> int:
        """Index of the right choice."""
        ...


@dataclass(frozen=True, kw_only=True)
class ItemTasks:
    """Tasks by name; the prompt is the text, and a space precedes each choice."""

    items: Mapping[str, Sequence[Item]]
    """The items of each task."""
    limit: int | None = None
    """Items of each task, from the first on; None for the stage's limit."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write one file per task; raises ConfigError for a task without items."""
        check_counts(None, self.limit, option)
        empty = [name for name, items in self.items.items() if not items]
        if empty or not self.items:
            names = ", ".join(empty) or "there is no task, and so it"
            raise ConfigError(f"{option}: {names} has no items; give at least one")
        for name, items in self.items.items():
            rows = [{"text": i.text, "choices": list(i.choices), "answer": i.answer} for i in items]
            write_task(folder, name, CONTENT, {"test": rows})
        return TaskFiles(names=tuple(self.items), limit=self.limit)


CONTENT = {
    "test_split": "test",
    "output_type": "multiple_choice",
    # bare names of fields, which the harness reads without rendering a template
    "doc_to_text": "text",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [ACC],
    "metadata": {"version": 1.0},
}

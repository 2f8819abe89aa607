"""Official tasks with their official prompts, on rows of local JSON-lines files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.stages.downstream.tasks.official import Content, OfficialTask, official_tasks, select_tasks
from analysis.stages.downstream.tasks.source import (
    Row,
    TaskFiles,
    check_answers,
    check_counts,
    check_fields,
    existing_folder,
    read_lines,
    split_examples,
    tested_and_examples,
    write_task,
)


@dataclass(frozen=True, kw_only=True)
class LocalTasks:
    """Tasks such as GLUE's, each on a file with the fields of the published data set.

    The first `shots` rows are the solved examples, in their order; the rows after them are tested.
    """

    folder: str
    """Folder of the files."""
    tasks: Sequence[str] = ("sst2", "cola", "mrpc", "rte")
    """Names of the harness' tasks."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files with another name than `<task>.jsonl`, by task; relative to `folder` or absolute."""
    folders: Sequence[str] = ("glue",)
    """Folders of the harness that are searched for tasks."""
    shots: int = 0
    """Solved examples before each document."""
    limit: int | None = None
    """Documents of each task; None for the stage's limit."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write a file for each task that includes the official one.

        Raises:
            ConfigError: for an unknown task, with the nearest name, and for too few rows.
            DataError: for a missing file, a missing field, or an answer that is not the number of a choice.
        """
        check_counts(self.shots, self.limit, option)
        home = existing_folder(self.folder, f"{option}.folder")
        for task in select_tasks(self.tasks, official_tasks(self.folders, option), self.folders, option):
            path = home / self.files.get(task.name, f"{task.name}.jsonl")
            rows = read_lines(path, f"{option}.folder")
            _check_rows(task, path, rows)
            examples, tested = split_examples(rows, self.shots, self.shots, f"{option}.folder: {path}")
            content = _local_content(task, has_examples=bool(examples))
            write_task(folder, task.name, content, tested_and_examples(tested, examples))
        return TaskFiles(names=tuple(self.tasks), shots=self.shots, limit=self.limit)


def _check_rows(task: OfficialTask, path: Path, rows: Sequence[Row]) -> None:
    """Raise a DataError unless the rows have the fields that the official prompt names."""
    target, choices = task.content.get("doc_to_target"), task.content.get("doc_to_choice")
    check_fields(rows, task.fields, f"{path} for {task.name}")
    if isinstance(choices, list) and isinstance(target, str) and target.isidentifier():
        check_answers(rows, target, len(choices), f"{path} for {task.name}")


def _local_content(task: OfficialTask, *, has_examples: bool) -> Content:
    """The official task with splits `tested` and `examples` instead of its own."""
    splits = {
        "training_split": "examples" if has_examples else None,
        "fewshot_split": "examples" if has_examples else None,
        "validation_split": None,
        "test_split": "tested",
        "fewshot_config": {"sampler": "first_n"},
    }
    return task.overrides | splits

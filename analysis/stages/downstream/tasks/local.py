"""Official tasks with their official prompts, on rows of local files of JSON lines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.stages.downstream.tasks.official import Content, OfficialTask, chosen, official
from analysis.stages.downstream.tasks.source import (
    Row,
    TaskFiles,
    check_answers,
    check_counts,
    check_fields,
    existing_folder,
    read_lines,
    split_off,
    write_task,
)


@dataclass(frozen=True, kw_only=True)
class LocalTasks:
    """Tasks such as GLUE's, each on a file with the fields of the published data set.

    The first `shots` rows are the solved examples, in their order; the rows after them are tested.
    """

    folder: str
    tasks: Sequence[str] = ("sst2", "cola", "mrpc", "rte")
    files: Mapping[str, str] = field(default_factory=dict)
    """Files with another name than `<task>.jsonl`, by task; relative to `folder` or absolute."""
    folders: Sequence[str] = ("glue",)
    """Folders of the harness' tasks to look in."""
    shots: int = 0
    limit: int | None = None

    def write(self, folder: Path, option: str) -> TaskFiles:
        """A file for each task that includes the official one.

        Raises:
            ConfigError: for an unknown task, with the nearest name, and for too few rows.
            DataError: for a missing file, a missing field, or an answer that is no choice's number.
        """
        check_counts(self.shots, self.limit, option)
        home = existing_folder(self.folder, f"{option}.folder")
        for task in chosen(self.tasks, official(self.folders, option), self.folders, option):
            path = home / self.files.get(task.name, f"{task.name}.jsonl")
            found = _checked(task, path, read_lines(path, f"{option}.folder"))
            examples, tested = split_off(found, self.shots, self.shots, f"{option}.folder: {path}")
            content, data = _redirected(task, examples, tested)
            write_task(folder, task.name, content, data)
        return TaskFiles(names=tuple(self.tasks), shots=self.shots, limit=self.limit)


def _checked(task: OfficialTask, path: Path, found: Sequence[Row]) -> Sequence[Row]:
    """The rows, if they have what the official prompt names."""
    target, choices = task.content.get("doc_to_target"), task.content.get("doc_to_choice")
    check_fields(found, task.fields, f"{path} for {task.name}")
    if isinstance(choices, list) and isinstance(target, str) and target.isidentifier():
        check_answers(found, target, len(choices), f"{path} for {task.name}")
    return found


def _redirected(
    task: OfficialTask, examples: Sequence[Row], tested: Sequence[Row]
) -> tuple[Content, dict[str, Sequence[Row]]]:
    """The official task on these rows: its content, and its rows by split."""
    splits = {
        "training_split": "examples" if examples else None,
        "fewshot_split": "examples" if examples else None,
        "validation_split": None,
        "test_split": "tested",
        "fewshot_config": {"sampler": "first_n"},
    }
    data = {"tested": tested} | ({"examples": examples} if examples else {})
    return task.changes | splits, data

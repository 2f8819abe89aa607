"""Official tasks with their official data, from the Hugging Face hub or its local cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.stages.downstream.tasks.official import (
    OfficialTask,
    harness_folder,
    official_tasks,
    select_tasks,
)
from analysis.stages.downstream.tasks.source import TaskFiles, check_counts, write_file
from editors.errors import DataError

FOLDERS = (
    "glue", "mmlu/default", "arc", "piqa", "super_glue/copa", "openbookqa", "wsc273", "lambada", "blimp",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HubTasks:
    """Tasks of the harness, by name; accuracy is reported for all, also for CoLA, which has only MCC."""

    tasks: Sequence[str]
    """Tasks, groups (`mmlu`) or tags (`glue`)."""
    folders: Sequence[str] = FOLDERS
    """Folders of the harness that are searched for tasks; reading all of them takes seconds."""
    shots: int | None = None
    """Solved examples before each document; None for the number in the task files."""
    limit: int | None = None
    """Documents of each task; None for the stage's limit."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write a file for every task that does not report accuracy; the others need none.

        Raises:
            ConfigError: for an unknown task or folder, with the nearest name.
            DataError: if the hub cannot be reached.
        """
        check_counts(self.shots, self.limit, option)
        known = official_tasks(self.folders, option)
        selected = select_tasks(self.tasks, known, self.folders, option)
        _check_reachable(_datasets(selected, known), option)
        for task in known.values():
            if task.is_task and task.overrides["metric_list"] != task.content.get("metric_list"):
                write_file(folder, task.name, task.overrides)
        folders = [harness_folder() / name for name in self.folders]
        return TaskFiles(names=tuple(self.tasks), folders=folders, shots=self.shots, limit=self.limit)


def _datasets(selected: Sequence[OfficialTask], known: Mapping[str, OfficialTask]) -> dict[str, str | None]:
    """Data sets on the hub, each with the first of its configurations that is needed."""
    datasets: dict[str, str | None] = {}
    for task in selected:
        siblings = [other for other in known.values() if other.path.parent == task.path.parent]
        # a group's file names no data, but the files of its tasks beside it do
        for source in [task] if "dataset_path" in task.content else siblings:
            if "dataset_path" in source.content:
                datasets.setdefault(source.content["dataset_path"], source.content.get("dataset_name"))
    return datasets


def _check_reachable(datasets: Mapping[str, str | None], option: str) -> None:
    """Raise a DataError at once if data cannot be loaded: the library would retry for half a minute."""
    from datasets import (
        config as settings,  # here, because it takes a second
        load_dataset_builder,
    )
    from huggingface_hub import HfApi, constants

    for dataset, config in datasets.items():
        try:
            if constants.HF_HUB_OFFLINE or settings.HF_HUB_OFFLINE:
                load_dataset_builder(dataset, config)
            else:
                HfApi().dataset_info(dataset, timeout=10)
        except Exception as error:  # the type depends on the versions of three libraries
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"{option}: the data set {dataset} cannot be loaded from the hub ({reason}): check the "
                f"network, set HF_HUB_OFFLINE=1 if it is in the hub's cache, or use local files, for example "
                f"stage/downstream/tasks=[glue]"
            ) from error

"""Official tasks with their official data, from the Hugging Face hub or its local cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.stages.downstream.tasks.official import OfficialTask, chosen, home, official
from analysis.stages.downstream.tasks.source import TaskFiles, check_counts, write_file
from editors.errors import DataError


@dataclass(frozen=True, kw_only=True)
class HubTasks:
    """Tasks by name, as the harness has them; accuracy is told of all, also of CoLA, which has MCC alone."""

    tasks: Sequence[str]
    """Tasks, groups (`mmlu`) or tags (`glue`)."""
    folders: Sequence[str] = ("glue", "mmlu/default")
    """Folders of the harness' tasks to look in; all of them take seconds to read."""
    shots: int | None = None
    limit: int | None = None

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Changed task files where one tells no accuracy.

        Raises:
            ConfigError: for an unknown task or folder, with the nearest name.
            DataError: where the hub cannot be reached.
        """
        check_counts(self.shots, self.limit, option)
        known = official(self.folders, option)
        wanted = chosen(self.tasks, known, self.folders, option)
        _reach(_datasets(wanted, known), option)
        for task in known.values():
            if task.is_task and task.changes["metric_list"] != task.content.get("metric_list"):
                write_file(folder, task.name, task.changes)
        folders = [home() / name for name in self.folders]
        return TaskFiles(names=tuple(self.tasks), folders=folders, shots=self.shots, limit=self.limit)


def _datasets(wanted: Sequence[OfficialTask], known: Mapping[str, OfficialTask]) -> dict[str, str | None]:
    """Data sets on the hub, each with the first configuration of it that is needed."""
    found: dict[str, str | None] = {}
    for task in wanted:
        beside = [other for other in known.values() if other.path.parent == task.path.parent]
        # a group's file names no data, but those of its tasks, which lie beside it, do
        for one in [task] if "dataset_path" in task.content else beside:
            if "dataset_path" in one.content:
                found.setdefault(one.content["dataset_path"], one.content.get("dataset_name"))
    return found


def _reach(datasets: Mapping[str, str | None], option: str) -> None:
    """Whether the data can be had, told at once: the data sets library tries for half a minute."""
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
        except Exception as error:  # which one depends on the versions of three libraries
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"{option}: the data set {dataset} cannot be had from the hub ({reason}): check the network, "
                f"set HF_HUB_OFFLINE=1 if it is in the hub's cache, or take local files, for example "
                f"stage/downstream/tasks=[glue]"
            ) from error

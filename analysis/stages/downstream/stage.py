"""Downstream ability: can the model still do the tasks that language models are compared on?

Multiple-choice tasks such as GLUE and MMLU do not mention the edited facts; an accuracy that falls towards
chance is damage to general ability. The likeliest choice counts as the answer, so nothing is generated:

    answer = argmax over choices c of log P(c | prompt),   acc = share of documents answered correctly

Official and own tasks run through the lm-evaluation-harness (EleutherAI) on the model in memory. Sources
(`tasks/`) write task files into a folder, `harness.py` loads them once, and every measurement scores the same
prompts again.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from analysis.stages.base import Cadence, Measurement, Observation, Stage
from analysis.stages.downstream.tasks.source import TaskFiles, TaskSource
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model

if TYPE_CHECKING:
    from analysis.stages.downstream.harness import TaskScore


@dataclass(kw_only=True)
class Downstream(Stage):
    """Accuracy on multiple-choice tasks.

    Keys: `downstream/<task>/acc`, `/stderr`, for tasks that have them `/f1` and `/mcc`, and at the first
    measurement `/documents`; `<task>` is a task or a group. `downstream/mean/acc` is the plain mean over the
    configured tasks, among which a group such as MMLU counts as one; `downstream/mean/stderr` is its standard
    error √(Σ sᵢ²) / k over k tasks, absent if that of a task is.

    Raises:
        ConfigError, DataError: in the constructor, for anything that is wrong with a source.
    """

    tasks: Mapping[str, TaskSource]
    """Sources of tasks, by any name."""
    name: str = "downstream"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=100))
    limit: int | None = 100
    """Documents of each task, from the first on, unless its source has a limit of its own; None for all."""
    seed: int = 1234
    """Seed of the harness' choice of examples, for tasks that draw them."""
    batch_tokens: int = 8192
    """Padded tokens of a batch."""

    def __post_init__(self) -> None:
        for option, value in (("limit", self.limit), ("batch_tokens", self.batch_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"stage.downstream.{option}={value}, but it has to be positive")
        if not self.tasks:
            raise ConfigError("stage.downstream.tasks is empty; choose some, such as [world]")
        with self._task_folders() as folders:
            names = Counter(name for files, _ in folders.values() for name in files.names)
        if "mean" in names:
            raise ConfigError("stage.downstream.tasks: a task cannot be named mean, the name of their mean")
        duplicates = [name for name, count in names.items() if count > 1]
        if duplicates:
            raise ConfigError(f"stage.downstream.tasks: two sources have tasks named {', '.join(duplicates)}")

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Load the tasks, build their prompts and tokenise them, once for the run."""
        from analysis.stages.downstream.harness import Harness  # here, because it takes seconds

        with self._task_folders() as folders:
            self._harnesses = [
                Harness(
                    files, folder, model, limit=self.limit, seed=self.seed, batch_tokens=self.batch_tokens,
                    option=f"stage.downstream.tasks.{name}",
                )
                for name, (files, folder) in folders.items()
            ]  # fmt: skip

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Evaluate every task."""
        scores: dict[str, TaskScore] = {}
        for harness in self._harnesses:
            scores |= harness.score(model)
        tasks = (self._metrics(name, score, observation) for name, score in scores.items())
        metrics: Measurement = {key: value for task in tasks for key, value in task}
        return {**metrics, **_mean([scores[name] for harness in self._harnesses for name in harness.top])}

    def _metrics(
        self, name: str, score: "TaskScore", observation: Observation
    ) -> Iterator[tuple[str, float]]:
        for metric, value in score.values.items():
            yield f"downstream/{name}/{metric}", value
        if score.stderr is not None:
            yield f"downstream/{name}/stderr", score.stderr
        if observation.is_first:
            yield f"downstream/{name}/documents", score.documents

    @contextmanager
    def _task_folders(self) -> Iterator[dict[str, tuple[TaskFiles, Path]]]:
        """Write every source's task files into a temporary folder, removed on exit; by the source's name."""
        with TemporaryDirectory(prefix="normscope-tasks-") as home:
            folders = {}
            for name, source in self.tasks.items():
                folder = Path(home) / name
                folder.mkdir()
                folders[name] = source.write(folder, f"stage.downstream.tasks.{name}"), folder
            yield folders


def _mean(scores: "Sequence[TaskScore]") -> dict[str, float]:
    """The mean accuracy over tasks with disjoint documents, and its standard error if all tasks have one."""
    result = {"downstream/mean/acc": sum(score.values["acc"] for score in scores) / len(scores)}
    errors = [score.stderr for score in scores if score.stderr is not None]
    if len(errors) == len(scores):
        result["downstream/mean/stderr"] = math.hypot(*errors) / len(scores)
    return result

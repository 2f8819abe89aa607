"""Downstream ability: can the model still do the tasks that language models are compared on?

Multiple-choice tasks such as GLUE and MMLU do not mention the edited facts; an accuracy that falls towards
chance is damage to general ability. The likeliest choice counts as the answer:

    answer = argmax over choices c of log P(c | prompt),   acc = share of documents answered correctly

Where a task has no choices, the model writes its answer greedily, and the task says what counts as a match.

Official and own tasks run through the lm-evaluation-harness (EleutherAI) on the model in memory. Sources
(`tasks/`) write task files into a folder, `harness.py` loads them once, and every measurement scores the same
prompts again. A task that the unedited model does no better than by chance (`chance.py`) cannot show a loss:
it is measured, but left out of the mean.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

from analysis.stages.base import Cadence, Measurement, Observation, Stage
from analysis.stages.downstream.tasks.source import TaskFiles, TaskSource
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model

if TYPE_CHECKING:
    from analysis.stages.downstream.harness import TaskScore

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Downstream(Stage):
    """Accuracy on tasks.

    Keys: `downstream/<task>/acc`, `/stderr`, for tasks that have them `/acc_norm`, `/exact_match`, `/em`,
    `/prompt_level_strict_acc`, `/f1`, `/mcc`, `/auc` and `/log_likelihood`, and at the first measurement
    `/documents` and `/above_chance`; `<task>` is a task or a group. `downstream/mean/acc` is the plain mean
    over those of the configured tasks that the unedited model does better than by chance, among which a group
    such as MMLU counts as one; a task without accuracy enters with its accuracy by length, its share of
    matches, or else its area under the ROC curve. `downstream/mean/stderr` is its standard error √(Σ sᵢ²) / k
    over k tasks, absent if that of a task is. Without such a task there is no mean.

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
    answers: bool = False
    """Keep the answer to every document in the table `answers`: part, count, task, document, right, and the
    log-likelihood of the right choice in nats."""

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
        self._unedited = model, self._scores(model), self._answers()
        self._above_chance = {name: _is_above_chance(score) for name, score in self._unedited[1].items()}
        self._warn_of_chance()

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Evaluate every task; the unedited model was evaluated by `prepare`."""
        prepared, scores, answers = self._unedited
        if not (observation.is_unedited and model is prepared):
            scores, answers = self._scores(model), self._answers()
        tasks = (self._metrics(name, score, observation) for name, score in scores.items())
        metrics: Measurement = {key: value for task in tasks for key, value in task}
        if self.answers:
            metrics["answers"] = answers.assign(part=observation.part, count=observation.count)
        return {**metrics, **_mean([scores[name] for name in self._top if self._above_chance[name]])}

    @property
    def _top(self) -> list[str]:
        return [name for harness in self._harnesses for name in harness.top]

    def _scores(self, model: Model) -> "dict[str, TaskScore]":
        return {name: score for harness in self._harnesses for name, score in harness.score(model).items()}

    def _answers(self) -> pd.DataFrame:
        """The answers of the last evaluation, one row per document."""
        rows = [row for harness in self._harnesses for row in harness.answers()] if self.answers else []
        return pd.DataFrame(rows, columns=["task", "document", "right", "log_likelihood"])

    def _warn_of_chance(self) -> None:
        """Name the tasks that the unedited model does no better than by chance, each with its interval."""
        low = [name for name in self._top if not self._above_chance[name]]
        for name in low:
            failed = next(c for c in self._unedited[1][name].comparisons if not c.is_above)
            log.warning("%s is left out of downstream/mean: on the unedited model %s", name, failed)
        if len(low) == len(self._top):
            log.warning(
                "the unedited model does no downstream task better than by chance, so that there is no "
                "downstream/mean: choose easier tasks or more documents"
            )

    def _metrics(
        self, name: str, score: "TaskScore", observation: Observation
    ) -> Iterator[tuple[str, float]]:
        for metric, value in score.values.items():
            yield f"downstream/{name}/{metric}", value
        if score.stderr is not None:
            yield f"downstream/{name}/stderr", score.stderr
        if observation.is_first:
            yield f"downstream/{name}/documents", score.documents
            yield f"downstream/{name}/above_chance", float(self._above_chance[name])

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


def _is_above_chance(score: "TaskScore") -> bool:
    return all(comparison.is_above for comparison in score.comparisons)


def _mean(scores: "Sequence[TaskScore]") -> dict[str, float]:
    """The mean over tasks with disjoint documents, and its standard error if all tasks have one."""
    if not scores:
        return {}
    result = {"downstream/mean/acc": sum(score.ability for score in scores) / len(scores)}
    errors = [score.stderr for score in scores if score.stderr is not None]
    if len(errors) == len(scores):
        result["downstream/mean/stderr"] = math.hypot(*errors) / len(scores)
    return result

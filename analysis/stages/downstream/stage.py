"""Downstream ability: official and own tasks through the lm-evaluation-harness, on the model in memory.

Sources (`tasks/`) write task files into a folder, `harness.py` loads them once, and every measurement asks
the model the same prompts again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from analysis.stages.base import Cadence, Measurement, Observation
from analysis.stages.downstream.tasks.source import TaskFiles, TaskSource
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model

if TYPE_CHECKING:
    from analysis.stages.downstream.harness import Score


@dataclass(kw_only=True)
class Downstream:
    """Accuracy on multiple-choice tasks: the choice with the highest likelihood counts.

    Keys: `downstream/<task>/acc`, `/stderr`, where a task has them `/f1` and `/mcc`, and at the first
    measurement `/documents`; `<task>` is a task or a group. `downstream/mean/acc` is the plain mean over the
    tasks that were asked for, of which a group such as MMLU is one.

    Raises:
        ConfigError, DataError: when it is made, for anything that is wrong with what the sources name.
    """

    tasks: Mapping[str, TaskSource]
    """By any name."""
    name: str = "downstream"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=100))
    limit: int | None = 100
    """Documents of each task, from the first on, where a source has no limit of its own; all for None."""
    seed: int = 1234
    """Of the harness' choice of examples where a task draws them."""
    batch_tokens: int = 8192
    """Padded tokens of a batch."""

    def __post_init__(self) -> None:
        for option, value in (("limit", self.limit), ("batch_tokens", self.batch_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"stage.downstream.{option}={value}, but it has to be positive")
        if not self.tasks:
            raise ConfigError("stage.downstream.tasks is empty; choose some, such as [world]")
        with self._written() as written:
            names = Counter(name for files, _ in written.values() for name in files.names)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ConfigError(f"stage.downstream.tasks: two sources have tasks named {', '.join(twice)}")

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Load the tasks, build their prompts and tokenise them, once for the run."""
        from analysis.stages.downstream.harness import Harness  # here, because it takes seconds

        with self._written() as written:
            self._harnesses = [
                Harness(
                    files, folder, model, limit=self.limit, seed=self.seed, batch_tokens=self.batch_tokens,
                    option=f"stage.downstream.tasks.{name}",
                )
                for name, (files, folder) in written.items()
            ]  # fmt: skip

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Evaluate every task."""
        scores: dict[str, Score] = {}
        for harness in self._harnesses:
            scores |= harness.score(model)
        rows = (self._row(name, score, observation) for name, score in scores.items())
        found = {key: value for row in rows for key, value in row}
        asked = [scores[name].values["acc"] for harness in self._harnesses for name in harness.top]
        return {**found, "downstream/mean/acc": sum(asked) / len(asked)}

    def _row(self, name: str, score: "Score", observation: Observation) -> Iterator[tuple[str, float]]:
        for metric, value in score.values.items():
            yield f"downstream/{name}/{metric}", value
        if score.stderr is not None:
            yield f"downstream/{name}/stderr", score.stderr
        if observation.is_first:
            yield f"downstream/{name}/documents", score.documents

    @contextmanager
    def _written(self) -> Iterator[dict[str, tuple[TaskFiles, Path]]]:
        """What each source writes, and the folder that it lies in for as long as this lasts."""
        with TemporaryDirectory(prefix="normscope-tasks-") as home:
            found = {}
            for name, source in self.tasks.items():
                folder = Path(home) / name
                folder.mkdir()
                found[name] = source.write(folder, f"stage.downstream.tasks.{name}"), folder
            yield found

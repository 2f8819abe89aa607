"""Downstream ability, measured by the lm-evaluation-harness on the model as it stands in memory.

Multiple-choice items are written as JSON lines with a generated task file, so that the harness prompts,
scores and aggregates as it does for its published tasks. No request or answer cache is used: their keys
know neither the data nor the weights.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import yaml

from analysis.stage import Cadence, Measurement, Observation
from editors.errors import ConfigError
from editors.model.facts import Fact
from editors.model.model import Model

_PREFIX = "local_"
"""Keeps the harness' own tasks of the same name apart."""


@runtime_checkable
class Item(Protocol):
    """A text to be continued by the right one of a few choices."""

    @property
    def text(self) -> str:
        """What precedes the choice."""
        ...

    @property
    def choices(self) -> Sequence[str]:
        """The possible continuations."""
        ...

    @property
    def answer(self) -> int:
        """Index of the right one."""
        ...


@dataclass(kw_only=True)
class Downstream:
    """Accuracy on multiple-choice tasks: the choice with the highest likelihood counts.

    Keys: `downstream/<task>/acc`, `downstream/<task>/stderr`, and `downstream/mean/acc` over tasks.
    """

    tasks: Mapping[str, Sequence[Item]]
    name: str = "downstream"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=100))
    limit: int = 100
    """Items of each task, from the first on."""
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ConfigError(f"stage.downstream.limit={self.limit}, but it has to be positive")
        empty = [task for task, items in self.tasks.items() if not items]
        if empty or not self.tasks:
            raise ConfigError(f"stage.downstream.tasks: {', '.join(empty) or 'nothing'} to be evaluated on")

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Load the tasks into the harness once for the run."""
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        with TemporaryDirectory() as folder:
            names = [
                _write_task(Path(folder), task, items[: self.limit]) for task, items in self.tasks.items()
            ]
            manager = TaskManager(include_defaults=False, include_path=folder)
            self._loaded = manager.load(names)
        harness: Any = HFLM  # a decorator hides its signature
        self._harness = harness(
            pretrained=model.hf, tokenizer=model.tokenizer, batch_size=self.batch_size, backend="causal"
        )

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Evaluate every task."""
        from lm_eval.evaluator import evaluate

        with redirect_stderr(StringIO()):  # its progress bars cannot be switched off
            # 1: the harness omits standard errors at 0; that of an accuracy is analytic and draws nothing
            found = evaluate(lm=self._harness, task_dict=self._loaded, bootstrap_iters=1, log_samples=False)
        assert found is not None and "results" in found
        result: Measurement = {}
        for task in self.tasks:
            row = found["results"][_PREFIX + task]
            result[f"downstream/{task}/acc"] = float(row["acc,none"])
            result[f"downstream/{task}/stderr"] = float(row["acc_stderr,none"])
        accuracies = [float(row["acc,none"]) for row in found["results"].values()]
        result["downstream/mean/acc"] = sum(accuracies) / len(accuracies)
        return result


def _write_task(folder: Path, task: str, items: Sequence[Item]) -> str:
    """A task file and its data; returns the harness' name of the task."""
    rows = [{"text": i.text, "choices": list(i.choices), "answer": i.answer} for i in items]
    data = folder / f"{task}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    description = {
        "task": _PREFIX + task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{task}.yaml").write_text(yaml.safe_dump(description))
    return _PREFIX + task

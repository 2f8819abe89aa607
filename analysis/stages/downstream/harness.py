"""The lm-evaluation-harness around a model in memory: tasks are loaded and prompts are built once.

The harness renders prompts, chooses examples, scores answers and weighs groups. It requests likelihoods,
which `lm.py` computes. Neither its cache of requests nor that of answers is used: their keys depend neither
on the data nor on the weights.
"""

import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import pooled_sample_stderr
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import env as environment

from analysis.stages.downstream.answers import chance_of, class_field, class_scores, judged, log_likelihoods
from analysis.stages.downstream.chance import Comparison, compare_accuracy, compare_area, roc_area
from analysis.stages.downstream.lm import InMemoryLM, choice_groups
from analysis.stages.downstream.tasks.source import TaskFiles
from editors.errors import ConfigError, DataError
from editors.models.model import Model

ACCURACIES = ("acc", "acc_norm")
"""Shares of right documents, by total likelihood and by likelihood per letter; the first one counts."""
WRITTEN = ("exact_match", "em", "prompt_level_strict_acc")
"""Shares of texts that a model wrote and that are right, of tasks without choices."""
METRICS = (*ACCURACIES, *WRITTEN, "f1", "mcc")
"""Metrics of the harness that are reported for a task if it has them."""

Results = Mapping[str, Any]
"""Results of the harness for one task or group."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """Scores of a task or group."""

    values: Mapping[str, float]
    """Those of `METRICS` that the task has, `auc` for two classes, `log_likelihood` for no choices."""
    stderr: float | None
    """Standard error of the accuracy, √(p (1 − p) / (n − 1)), pooled in a group; None for one document.

    That of the area under the ROC curve for a task that has no accuracy.
    """
    comparisons: Sequence[Comparison]
    """Accuracy and area compared with chance; the score is above chance if all are."""
    documents: int
    """Number of documents."""

    @property
    def ability(self) -> float:
        """The number that enters the mean: the accuracy, or the area if there is none."""
        return self.values[_accuracy_of(self.values) or "auc"]


class Harness:
    """The tasks of one source, loaded once and evaluated on model after model."""

    def __init__(
        self, files: TaskFiles, folder: Path, model: Model, *,
        limit: int | None, seed: int, batch_tokens: int, option: str,
    ) -> None:  # fmt: skip
        self._limit = limit if files.limit is None else files.limit
        with _silent(), _compiled_once():
            self._loaded = _load(files, folder, option)
            for task in self.tasks.values():
                _build(task, files.shots, self._limit, seed, option)
                _check_classes(task, option)
            groups = [group for task in self.tasks.values() for group in choice_groups(task)]
        requests = [
            i for task in self.tasks.values() for i in task.instances if task.OUTPUT_TYPE != "generate_until"
        ]
        self._lm = InMemoryLM(requests, model, batch_tokens, groups)

    @property
    def tasks(self) -> dict[str, ConfigurableTask]:
        """Every single task, by name."""
        return self._loaded["tasks"]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Names of the tasks of every group, also of those in groups inside it."""
        return {
            name: [task.config.task for task in group.get_all_tasks()]
            for name, group in self._loaded["groups"].items()
        }

    @property
    def top(self) -> list[str]:
        """Names of groups and tasks that belong to no other group."""
        inside = {name for names in self._loaded["group_map"].values() for name in names}
        return [name for name in (*self._loaded["groups"], *self.tasks) if name not in inside]

    def score(self, model: Model) -> dict[str, TaskScore]:
        """Scores of the model in each group, and in each task outside of groups, by name."""
        self._lm.model = model
        with _quiet():
            # 0: no bootstrap, which would start processes and draw; it omits all standard errors
            evaluation: Any = evaluate(
                lm=self._lm, task_dict=self._loaded, limit=self._limit, bootstrap_iters=0, log_samples=False
            )
        groups = self.groups
        alone = {name: [name] for name in self.tasks if not any(name in names for names in groups.values())}
        counts = {name: count["effective"] for name, count in evaluation["n-samples"].items()}
        results = evaluation["results"]
        return {
            name: self._task_score(results, name, members, [counts[member] for member in members])
            for name, members in (groups | alone).items()
        }

    def answers(self) -> Iterator[tuple[str, int, bool, float]]:
        """Task, number of the document, whether it is right, and log-likelihood, of the last evaluation."""
        for name, task in self.tasks.items():
            for number, (is_right, likelihood) in enumerate(judged(task)):
                yield name, number, is_right, likelihood

    def _task_score(
        self, results: Mapping[str, Results], name: str, members: Sequence[str], sizes: Sequence[int]
    ) -> TaskScore:
        """The score of a group with these members, or of a task, which is its own only member."""
        values = _reported_metrics(results[name])
        area = roc_area(class_scores(self.tasks[name])) if name in self.tasks else {}
        values |= log_likelihoods(self.tasks[name]) if name in self.tasks else {}
        values |= {"auc": area["auc"]} if area else {}
        comparisons = [compare_area(area["auc"], area["auc_stderr"])] if area else []
        stderr = area.get("auc_stderr")
        if accuracy := _accuracy_of(values):
            accuracies = [_reported_metrics(results[member])[accuracy] for member in members]
            stderr = _pooled_stderr(accuracies, sizes)
            shares = [chance_of(self.tasks[member]) for member in members]
            chance = sum(share * size for share, size in zip(shares, sizes, strict=True)) / sum(sizes)
            comparisons.insert(0, compare_accuracy(accuracy, values[accuracy], sum(sizes), chance))
        return TaskScore(values=values, stderr=stderr, comparisons=comparisons, documents=sum(sizes))


def _accuracy_of(values: Mapping[str, float]) -> str | None:
    return next((name for name in (*ACCURACIES, *WRITTEN) if name in values), None)


def _pooled_stderr(accuracies: Sequence[float], sizes: Sequence[int]) -> float | None:
    pairs = zip(accuracies, sizes, strict=True)
    spreads = [(share * (1 - share) / (size - 1)) ** 0.5 for share, size in pairs if size > 1]
    return float(pooled_sample_stderr(spreads, list(sizes))) if len(spreads) == len(sizes) else None


def _reported_metrics(results: Results) -> dict[str, float]:
    """Those of `METRICS` that the results hold, whose keys name the filter of answers behind a comma."""
    values = {key.split(",")[0]: value for key, value in results.items()}
    return {metric: float(values[metric]) for metric in METRICS if metric in values}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress log lines of the harness and warnings about scores of a single class; restore random state.

    The harness draws a name from Python's global generator whenever it reads the name of a task.
    """
    logger = logging.getLogger("lm_eval")
    level, state = logger.level, random.getstate()
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="sklearn")
            yield
    finally:
        logger.setLevel(level)
        random.setstate(state)


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the harness' progress bars too, which cannot be switched off."""
    with _quiet(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        yield


@contextmanager
def _compiled_once() -> Iterator[None]:
    """Cache templates, which the harness would compile again for every document and every example."""
    compile_template = environment.from_string
    environment.from_string = lru_cache(maxsize=None)(compile_template)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del environment.from_string


def _load(files: TaskFiles, folder: Path, option: str) -> Any:
    """Tasks and groups of the harness, by name.

    Raises:
        DataError: if the data cannot be loaded or lack a field that a prompt names.
    """
    manager = TaskManager(include_defaults=False, include_path=[*map(str, files.folders), str(folder)])
    try:
        return manager.load(list(files.names))
    except (KeyError, UndefinedError) as error:
        raise DataError(f"{option}: the rows have no field {error}, which a prompt names") from error
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        names = ", ".join(files.names)
        raise DataError(f"{option}: the data of {names} cannot be loaded: {reason}") from error


def _build(task: ConfigurableTask, shots: int | None, limit: int | None, seed: int, option: str) -> None:
    """Render all prompts once; the harness would do it at every evaluation, with other random examples.

    Raises:
        ConfigError: for a task that is scored by the likelihood of whole texts, or samples, and for more
            examples than there are.
    """
    if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood", "generate_until"):
        raise ConfigError(
            f"{option}: {task.task_name} asks for {task.OUTPUT_TYPE}, which is not measured: leave it out"
        )
    options = task.config.generation_kwargs or {}
    if options.get("do_sample") or float(options.get("temperature") or 0) > 0:
        raise ConfigError(
            f"{option}: {task.task_name} samples its texts, which would differ from measurement to "
            f"measurement; leave it out"
        )
    if shots is not None:
        task.set_config("num_fewshot", shots)
    count, available = task.config.num_fewshot or 0, len(task.sampler.df or ())
    if count > available:
        raise ConfigError(
            f"{option}.shots={count}, but {task.task_name} has {available} rows to take them from"
        )
    task.set_fewshot_seed(seed)
    task.build_all_requests(limit=limit)
    # every evaluation would report its source code, which takes longer than the evaluation
    task.set_config("custom_dataset", None)
    task.build_all_requests = lambda **_: _clear_answers(task.instances)  # type: ignore[method-assign]


def _check_classes(task: ConfigurableTask, option: str) -> None:
    """Raise a DataError if a task that is scored by an area alone has documents of one class only."""
    if field := class_field(task):
        labels = [instance.doc[field] for instance in task.instances]
        if len(set(labels)) < 2:
            raise DataError(
                f"{option}: {task.task_name} has {field}={labels[0]} in all of its {len(labels)} documents, "
                f"but both classes are needed; raise the limit or give other rows"
            )


def _clear_answers(instances: Sequence[Instance]) -> None:
    """Remove the answers of the last evaluation."""
    for instance in instances:
        instance.resps.clear()
        instance.filtered_resps.clear()

"""The lm-evaluation-harness around a model in memory: tasks are loaded and prompts are built once.

The harness renders prompts, chooses examples, scores answers and weighs groups. It asks for likelihoods;
`answers.py` computes them. Neither its cache of
requests nor that of answers is used: their keys know neither the data nor the weights.
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

from analysis.stages.downstream.lm import Answers, choices_of
from analysis.stages.downstream.tasks.source import TaskFiles
from editors.errors import ConfigError, DataError
from editors.models.model import Model

METRICS = ("acc", "f1", "mcc")
"""What is told of a task that has it."""

Results = Mapping[str, Any]
"""What the harness tells of one task or group."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the harness found of a task or group."""

    values: Mapping[str, float]
    """Of `METRICS`."""
    stderr: float | None
    """Of the accuracy, √(p (1 − p) / (n − 1)), pooled in a group; None for a single document."""
    documents: int


class Harness:
    """The tasks of one source, ready to be asked of a model again and again."""

    def __init__(
        self, files: TaskFiles, folder: Path, model: Model, *,
        limit: int | None, seed: int, batch_tokens: int, option: str,
    ) -> None:  # fmt: skip
        self._limit = limit if files.limit is None else files.limit
        with _silent(), _compiled_once():
            self._loaded = _load(files, folder, option)
            for task in self.tasks.values():
                _build(task, files.shots, self._limit, seed, option)
            choices = [group for task in self.tasks.values() for group in choices_of(task)]
        requests = [i for task in self.tasks.values() for i in task.instances]
        self._answers = Answers(requests, model, batch_tokens, choices)

    @property
    def tasks(self) -> dict[str, ConfigurableTask]:
        """Every single task, by name."""
        return self._loaded["tasks"]

    @property
    def groups(self) -> dict[str, list[str]]:
        """The tasks of every group, also those of groups inside it."""
        return {
            name: [task.config.task for task in group.get_all_tasks()]
            for name, group in self._loaded["groups"].items()
        }

    @property
    def top(self) -> list[str]:
        """Groups and tasks that belong to no other group."""
        inside = {name for names in self._loaded["group_map"].values() for name in names}
        return [name for name in (*self._loaded["groups"], *self.tasks) if name not in inside]

    def score(self, model: Model) -> dict[str, Score]:
        """What the model scores in each group, and in each task outside of groups."""
        self._answers.model = model
        with _quiet():
            # 0: no bootstrap, which would start processes and draw; it omits all standard errors
            found: Any = evaluate(
                lm=self._answers, task_dict=self._loaded, limit=self._limit, bootstrap_iters=0,
                log_samples=False,
            )  # fmt: skip
        groups = self.groups
        alone = {name: [name] for name in self.tasks if not any(name in names for names in groups.values())}
        counts = {name: count["effective"] for name, count in found["n-samples"].items()}
        return {
            name: _score(found["results"], name, members, [counts[member] for member in members])
            for name, members in (groups | alone).items()
        }


def _score(results: Mapping[str, Results], name: str, members: Sequence[str], sizes: Sequence[int]) -> Score:
    """Of a group, or of a task, which is its own only member."""
    shares = [_told(results[member])["acc"] for member in members]
    pairs = zip(shares, sizes, strict=True)
    spreads = [(share * (1 - share) / (size - 1)) ** 0.5 for share, size in pairs if size > 1]
    complete = len(spreads) == len(sizes)
    return Score(
        values=_told(results[name]),
        stderr=float(pooled_sample_stderr(spreads, list(sizes))) if complete else None,
        documents=sum(sizes),
    )


def _told(result: Results) -> dict[str, float]:
    """Those of `METRICS` that are there; the harness names the filter of answers behind a comma."""
    told = {key.split(",")[0]: value for key, value in result.items()}
    return {metric: float(told[metric]) for metric in METRICS if metric in told}


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines of the harness, no warnings about scores where one class was chosen, no random draws.

    It draws a name from Python's global generator whenever it reads the name of a task.
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
    """Nor any of its progress bars, which cannot be switched off."""
    with _quiet(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        yield


@contextmanager
def _compiled_once() -> Iterator[None]:
    """The harness compiles a prompt's template again for every document and every example of it."""
    plain = environment.from_string
    environment.from_string = lru_cache(maxsize=None)(plain)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del environment.from_string


def _load(files: TaskFiles, folder: Path, option: str) -> Any:
    """Tasks and groups of the harness, by name.

    Raises:
        DataError: where the data cannot be had or do not have what a prompt names.
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
    """Render all prompts now; the harness would do it at every evaluation, with other random examples.

    Raises:
        ConfigError: for a task that is not scored by likelihoods, and for more examples than there are.
    """
    if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood"):
        raise ConfigError(
            f"{option}: {task.task_name} asks for {task.OUTPUT_TYPE}, but only tasks that are scored by "
            f"likelihoods can be measured; leave it out"
        )
    if shots is not None:
        task.set_config("num_fewshot", shots)
    wanted, there = task.config.num_fewshot or 0, len(task.sampler.df or ())
    if wanted > there:
        raise ConfigError(f"{option}.shots={wanted}, but {task.task_name} has {there} rows to take them from")
    task.set_fewshot_seed(seed)
    task.build_all_requests(limit=limit)
    # told at every evaluation as its source code, which takes longer than the evaluation
    task.set_config("custom_dataset", None)
    task.build_all_requests = lambda **_: _forget(task.instances)  # type: ignore[method-assign]


def _forget(instances: Sequence[Instance]) -> None:
    """Take back the answers of the last evaluation."""
    for instance in instances:
        instance.resps.clear()
        instance.filtered_resps.clear()

"""A search for hyperparameters: a study of Optuna whose trials are runs.

Its state is the study's storage, `study.db` in the folder of the experiment, so that the same command
continues after an interruption. Every trial is a run like any other, in a folder of its own.
"""

import logging
import math
import random
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, Trial, TrialState

from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError, DataError, NormscopeError, NumericsError
from pipeline.config.file_cache import keep_files
from pipeline.config.fingerprint import fingerprint
from pipeline.config.hydra_internals import result_of
from pipeline.config.schema import ResolvedConfig, resolved
from pipeline.runs.layout import run_folder
from pipeline.runs.messages import error_line
from pipeline.runs.objectives import Direction, objective_of, objective_problems, objectives_of
from pipeline.runs.signals import JobLeft
from pipeline.sweeps.retries import (
    ERRORS,
    RUN,
    counted_trials,
    fail,
    mark_relaunched,
    requeue_on_exit,
    resumable,
)
from pipeline.sweeps.search_space import Space, any_of, as_overrides, split
from pipeline.sweeps.study_store import locked, open_study

log = logging.getLogger(__name__)


class _Elsewhere(NormscopeError):
    """A run belongs to another process and is not done."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A trial with the run that gives its values."""

    number: int
    """Number of the trial."""
    overrides: tuple[str, ...]
    run: ResolvedConfig | Exception
    """The configuration, or why it cannot be composed."""


class Trials:
    """The trials of a study, up to `n_trials` in all."""

    def __init__(
        self,
        *,
        sampler: DictConfig,
        storage: str,
        study_name: str,
        n_trials: int,
        n_jobs: int,
        max_failure_rate: float,
        seed: int | None,
        params: Mapping[str, Any] | None,
        first: Sequence[Mapping[str, Any]] = (),
        first_must_run: bool = False,
    ) -> None:
        if n_trials < 1 or n_jobs < 1:
            raise ConfigError(f"hydra.sweeper: n_trials={n_trials}, n_jobs={n_jobs} have to be at least 1")
        self.storage, self.study_name = storage, study_name
        self.n_trials, self.n_jobs, self.max_failure_rate = n_trials, n_jobs, max_failure_rate
        self._sampler, self._seed, self._params = sampler, seed, params or {}
        self._first = [dict(values) for values in first]
        self._first_must_run = first_must_run

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the objectives from the configuration.

        Raises:
            ConfigError: if there is none, or the stages do not measure the metrics of one.
        """
        keep_files(hydra_context)
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )
        self._folder = Path(config.hydra.sweep.dir)
        self._parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        self._composed = partial(hydra_context.config_loader.load_sweep_config, config)
        # unresolved: an interpolation may refer to a key that is searched
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # pyright: ignore
        parts = {"objective": OmegaConf.to_container(config.objective, resolve=True), "stage": plain["stage"]}
        objectives = objectives_of(parts)
        if not objectives:
            raise ConfigError("a search needs something to search for: objective=score")
        if problems := objective_problems(parts):
            raise ConfigError("\n".join(problems))
        self._objectives: dict[str, Direction] = {
            name: objective.direction for name, objective in objectives.items()
        }
        self._identity = {"objectives": parts["objective"], "settings": fingerprint(plain)}

    def sweep(self, arguments: Sequence[str]) -> None:
        """Run trials until there are `n_trials`.

        Raises:
            ConfigError: if the stored study is another search, or another process searches.
            DataError: if the storage cannot be read, or too many trials failed.
            NormscopeError: as the run of the first trial, if it has to run; the trial then waits.
        """
        space, fixed = self._space(arguments)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings(), locked(self._folder):
            warnings.simplefilter("ignore", ExperimentalWarning)
            study = open_study(
                self.storage,
                self.study_name,
                objectives=self._objectives,
                identity=self._identity,
                space=space,
                first=self._first,
            )
            queue = deque(resumable(study))
            before = len(counted_trials(study)) - len(queue)
            with requeue_on_exit(study):
                while (more := self.n_trials - (len(counted_trials(study)) - len(queue))) > 0:
                    self._batch(study, queue, min(more, self.n_jobs), space, fixed)
                left = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
            if before >= self.n_trials:
                log.info("%d trials are there already; hydra.sweeper.n_trials=… sets more", before)
            if left:
                log.warning("%d trials have no result yet: the same command continues", left)
            self._conclude(study)

    def _space(self, arguments: Sequence[str]) -> tuple[Space, list[str]]:
        """The search space and the other overrides; those of the command line come last."""
        space, fixed = split(self._parser.parse_overrides([*as_overrides(self._params), *arguments]))
        if not space:
            raise ConfigError(
                "nothing is searched: give a key several values, such as "
                "'editor.preservation_weight=tag(log,interval(10,1e4))'"
            )
        first = as_overrides({key: any_of(distribution) for key, distribution in space.items()})
        resolved(self._composed([*first, *fixed]))  # a mistake is reported before there is a study
        return space, fixed

    def _batch(
        self, study: optuna.Study, queue: deque[FrozenTrial], size: int, space: Space, fixed: Sequence[str]
    ) -> None:
        """Launch `size` trials together, those of the queue first, and store their values."""
        trials: list[Trial | FrozenTrial] = [queue.popleft() for _ in range(min(size, len(queue)))]
        mark_relaunched(study, [trial.number for trial in trials])
        if missing := size - len(trials):
            study.sampler = self._sampler_for(len(counted_trials(study)))
            trials += [study.ask({**space}) for _ in range(missing)]
        jobs = [self._job(trial, space, fixed) for trial in trials]
        # two processes cannot compute one run
        different = {fingerprint(job.run): job.overrides for job in jobs if isinstance(job.run, dict)}
        first = jobs[0].number
        returned = self._launcher.launch([*different.values()], initial_job_idx=first) if different else []
        results = dict(zip(different, returned, strict=True))
        failed = [sentence for job in jobs if (sentence := self._store(study, job, results))]
        if len(failed) / size > self.max_failure_rate:
            raise DataError(
                f"{len(failed)} of {size} trials failed, more than hydra.sweeper.max_failure_rate="
                f"{self.max_failure_rate} allows; the first: {failed[0]}"
            )

    def _sampler_for(self, count: int) -> optuna.samplers.BaseSampler:
        """A sampler with a seed of its own after `count` trials: it draws the same after an interruption."""
        seed = self._sampler.get("seed", self._seed)
        seed = self._seed if seed is None else seed
        if seed is None or "seed" not in self._sampler:
            return instantiate(self._sampler)
        return instantiate(self._sampler, seed=random.Random(f"{seed} {count}").getrandbits(32))

    def _job(self, trial: Trial | FrozenTrial, space: Space, fixed: Sequence[str]) -> _Job:
        """The job of a trial; the name of its run is stored in a new trial."""
        overrides = (*as_overrides({key: trial.params[key] for key in space}), *fixed)
        try:
            run = resolved(self._composed([*overrides]))
        except Exception as error:
            run = error
        if isinstance(trial, Trial):
            trial.set_user_attr(RUN, run_folder(self._folder, run).name if isinstance(run, dict) else None)
        return _Job(number=trial.number, overrides=overrides, run=run)

    def _store(self, study: optuna.Study, job: _Job, results: Mapping[str, JobReturn]) -> str | None:
        """Store the values of a run that has ended; returns the reason if it failed, else None."""
        try:
            if isinstance(job.run, Exception):
                raise job.run
            values = self._values(self._returned(job.run, results[fingerprint(job.run)]))
        except (JobLeft, _Elsewhere) as error:
            log.warning("trial %d has no result yet: %s", job.number, error_line(error))
            return None
        except Exception as error:
            if self._is_shared(job, error):
                raise
            fail(study, job.number, sentence := error_line(error))
            log.warning("trial %d failed: %s", job.number, sentence)
            return sentence
        study.tell(job.number, values)
        log.info("trial %d: %s", job.number, self._sentence(values))
        return None

    def _is_shared(self, job: _Job, error: Exception) -> bool:
        """Whether every trial would end like the first: a mistake, and no number that diverged."""
        is_mistake = isinstance(error, NormscopeError) and not isinstance(error, NumericsError)
        return self._first_must_run and job.number == 0 and is_mistake

    def _returned(self, run: ResolvedConfig, job: JobReturn) -> Any:
        """The value of a job, or its error raised."""
        if job.status == JobStatus.FAILED:
            raise result_of(job)
        if (value := result_of(job)) is not None:
            return value
        folder = run_folder(self._folder, run)
        if not RunFolder(folder).is_done:
            raise _Elsewhere(f"another process computes, or computed, {folder}")
        return objective_of(run, folder)  # the other process has finished it meanwhile

    def _values(self, returned: Any) -> list[float]:
        values = returned if isinstance(returned, list) else [returned]
        for name, value in zip(self._objectives, values, strict=True):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise NumericsError(
                    f"the run gives no number for objective={name} ({value}): it diverged, "
                    "or it did not measure the metrics of the objective"
                )
        return [float(value) for value in values]

    def _sentence(self, values: Sequence[float]) -> str:
        return ", ".join(f"{name} {value:.6g}" for name, value in zip(self._objectives, values, strict=True))

    def _conclude(self, study: optuna.Study) -> None:
        """Log the best trials and the folders of their runs; raises DataError if all failed."""
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            failed = [trial for trial in counted_trials(study) if trial.state == TrialState.FAIL]
            if len(failed) < len(counted_trials(study)):
                return
            first = study.user_attrs[ERRORS][str(failed[0].number)]
            raise DataError(f"all {len(failed)} trials failed; the first: {first}")
        for trial in [study.best_trial] if len(self._objectives) == 1 else study.best_trials:
            log.info(
                "best: %s with %s in %s",
                self._sentence(trial.values),
                " ".join(as_overrides(trial.params)),
                self._folder / str(trial.user_attrs.get(RUN)),
            )

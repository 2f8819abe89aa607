"""A search for hyperparameters: a study of Optuna whose trials are runs.

Everything about it lies in the study's storage, `study.db` in the folder of the experiment, so that the same
command goes on after an interruption. Every trial is a run like any other, in a folder of its own.
"""

import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import Trial, TrialState

from analysis.results.quiet_optuna import quiet_optuna
from editors.errors import ConfigError, DataError, NormscopeError
from pipeline.config.file_cache import keep_files
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import ResolvedConfig, resolved, without_hydra
from pipeline.runs.layout import is_done
from pipeline.runs.messages import reason
from pipeline.runs.objectives import chosen, lacking, objective_of
from pipeline.runs.signals import JobLeft
from pipeline.sweeps.retries import take_up, waiting
from pipeline.sweeps.search_space import Space, any_of, as_overrides, compatible, suggested

log = logging.getLogger(__name__)


class _Elsewhere(NormscopeError):
    """A run belongs to another process and is not done."""


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
    ) -> None:
        if n_trials < 1 or n_jobs < 1:
            raise ConfigError(f"hydra.sweeper: n_trials={n_trials}, n_jobs={n_jobs} have to be at least 1")
        if sampler.get("_partial_"):
            raise ConfigError("a search has no grid: without hydra/sweeper=optuna all given values are tried")
        if not sqlalchemy.__version__.startswith("1."):
            raise ConfigError(
                f"this Optuna cannot read its files with SQLAlchemy {sqlalchemy.__version__}: "
                "pip install 'normscope[optuna]'"
            )
        self.storage, self.study_name = storage, study_name
        self.n_trials, self.n_jobs, self.max_failure_rate = n_trials, n_jobs, max_failure_rate
        self._sampler, self._seed, self._params = sampler, seed, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the objectives from the configuration.

        Raises:
            ConfigError: where there is none, or one that the chosen stages cannot give.
        """
        keep_files(hydra_context)
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )
        self._folder = Path(config.hydra.sweep.dir)
        self._composed = partial(hydra_context.config_loader.load_sweep_config, config)
        # unresolved: what is searched may be what an interpolation waits for
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # pyright: ignore
        asked = {"objective": OmegaConf.to_container(config.objective, resolve=True), "stage": plain["stage"]}
        objectives = chosen(asked)
        if not objectives:
            raise ConfigError("a search needs something to search for: objective=score")
        if reasons := lacking(asked):
            raise ConfigError("\n".join(reasons))
        self._names = list(objectives)
        self._directions = [objective.direction for objective in objectives.values()]
        self._study_is = {"objectives": asked["objective"], "settings": fingerprint(plain)}

    def sweep(self, arguments: Sequence[str]) -> None:
        """Run trials until there are `n_trials`.

        Raises:
            ConfigError: where the stored study is another search, or another process searches.
            DataError: where the storage cannot be read, or too many trials failed.
        """
        space, fixed = self._space(arguments)
        with quiet_optuna(), self._alone():
            study = self._study(space)
            take_up(study)
            before = _begun(study)
            with waiting(study):
                while (more := self.n_trials - (begun := _begun(study))) > 0:
                    self._batch(study, begun, min(more, self.n_jobs), space, fixed)
                left = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
            if before >= self.n_trials:
                log.info("%d trials are there already; hydra.sweeper.n_trials=… asks for more", before)
            if left:
                log.warning("%d trials have no result yet: the same command goes on", left)
            self._conclude(study)

    def _space(self, arguments: Sequence[str]) -> tuple[Space, Mapping[str, Any]]:
        """What is searched, and what is not; of two values of a key the later one, on the command line."""
        given = [*as_overrides(self._params), *arguments]
        last = {argument.partition("=")[0]: argument for argument in given}
        space, fixed = create_params_from_overrides(list(last.values()))
        if not space:
            raise ConfigError(
                "nothing is searched: give a key several values, such as "
                "'editor.preservation_weight=tag(log,interval(10,1e4))'"
            )
        first = [f"{name}={any_of(distribution)}" for name, distribution in space.items()]
        resolved(self._composed([*first, *as_overrides(fixed)]))  # a mistake is told before there is a study
        return space, fixed

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A trial that nobody has ended was left by a process that is no more."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._folder / ".search.lock", timeout=0):
                yield
        except Timeout as error:
            raise ConfigError(
                f"another process searches in {self._folder}: wait for it, or choose another name=…"
            ) from error

    def _study(self, space: Space) -> optuna.Study:
        """The stored study, or a new one that remembers what it is."""
        try:
            storage = optuna.storages.get_storage(self.storage)
            known = {summary.study_name for summary in storage.get_all_study_summaries()}
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"the study in {self.storage} cannot be opened: {reason}") from error
        if self.study_name in known:
            study = optuna.load_study(study_name=self.study_name, storage=storage)
            if study.trials:
                self._check(study, space)
                return study
            optuna.delete_study(study_name=self.study_name, storage=storage)  # it was not begun
        study = optuna.create_study(study_name=self.study_name, storage=storage, directions=self._directions)
        for key, value in {**self._study_is, "names": self._names}.items():
            study.set_user_attr(key, value)
        study.set_user_attr("space", {name: distribution_to_json(one) for name, one in space.items()})
        return study

    def _check(self, study: optuna.Study, space: Space) -> None:
        """ConfigError where trials of the stored study and of this one cannot be compared."""
        told = study.user_attrs
        problem = next((key for key, value in self._study_is.items() if told.get(key) != value), None)
        old = {name: json_to_distribution(text) for name, text in told.get("space", {}).items()}
        if problem is None and not (old.keys() == space.keys() and compatible(old, space)):
            problem = "parameters"
        if problem is not None:
            raise ConfigError(
                f"{self.storage} holds a search with other {problem}: "
                "choose another name=… for this one, or delete that file"
            )

    def _batch(
        self, study: optuna.Study, begun: int, size: int, space: Space, fixed: Mapping[str, Any]
    ) -> None:
        """Ask for trials, launch them together, tell what they gave."""
        study.sampler = self._sampler_for(begun)
        trials = [study.ask() for _ in range(size)]
        jobs = [(*as_overrides(suggested(trial, space)), *as_overrides(fixed)) for trial in trials]
        runs = [self._run(job) for job in jobs]
        # two processes cannot compute one run
        different = {
            fingerprint(run): job for run, job in zip(runs, jobs, strict=True) if isinstance(run, dict)
        }
        first = trials[0].number
        returned = self._launcher.launch([*different.values()], initial_job_idx=first) if different else []
        gave = dict(zip(different, returned, strict=True))
        failed = [
            sentence
            for trial, run in zip(trials, runs, strict=True)
            if (sentence := self._tell(study, trial, run, gave))
        ]
        if len(failed) / size > self.max_failure_rate:
            raise DataError(
                f"{len(failed)} of {size} trials failed, more than hydra.sweeper.max_failure_rate="
                f"{self.max_failure_rate} allows; the first: {failed[0]}"
            )

    def _sampler_for(self, begun: int) -> optuna.samplers.BaseSampler:
        """A sampler with a seed of its own for every batch: it draws the same after an interruption."""
        seed = self._sampler.get("seed", self._seed)
        seed = self._seed if seed is None else seed
        if seed is None or "seed" not in self._sampler:
            return instantiate(self._sampler)
        return instantiate(self._sampler, seed=random.Random(f"{seed} {begun}").getrandbits(32))

    def _run(self, job: Sequence[str]) -> ResolvedConfig | Exception:
        """The configuration of a trial's run, or why it has none."""
        try:
            return resolved(without_hydra(self._composed([*job])))
        except Exception as error:
            return error

    def _tell(
        self,
        study: optuna.Study,
        trial: Trial,
        run: ResolvedConfig | Exception,
        gave: Mapping[str, JobReturn],
    ) -> str | None:
        """Store what a run gave, if it is over; the sentence where it failed."""
        try:
            if isinstance(run, Exception):
                raise run
            trial.set_user_attr("run", fingerprint(run))
            values = self._values(self._returned(run, gave[fingerprint(run)]))
        except (JobLeft, _Elsewhere) as error:
            log.warning("trial %d has no result yet: %s", trial.number, reason(error))
            return None
        except Exception as error:
            sentence = reason(error)
            trial.set_user_attr("error", sentence)
            study.tell(trial, state=TrialState.FAIL)
            log.warning("trial %d failed: %s", trial.number, sentence)
            return sentence
        study.tell(trial, values)
        log.info("trial %d: %s", trial.number, self._told(values))
        return None

    def _returned(self, run: ResolvedConfig, job: JobReturn) -> Any:
        """What a job gave, or its error raised; `JobReturn.return_value` prints as well."""
        if job.status == JobStatus.FAILED:
            raise job._return_value
        if job._return_value is not None:
            return job._return_value
        folder = self._folder / fingerprint(run)
        if not is_done(folder):
            raise _Elsewhere(f"another process computes, or computed, {folder}")
        return objective_of(run, folder)  # which that process has computed meanwhile

    def _values(self, returned: Any) -> list[float]:
        values = returned if isinstance(returned, list) else [returned]
        for name, value in zip(self._names, values, strict=True):
            if value is None or not math.isfinite(value):
                raise DataError(
                    f"the run gives no number for objective={name} ({value}): it diverged, "
                    "or it did not measure what the objective reads"
                )
        return [float(value) for value in values]

    def _told(self, values: Sequence[float]) -> str:
        return ", ".join(f"{name} {value:.6g}" for name, value in zip(self._names, values, strict=True))

    def _conclude(self, study: optuna.Study) -> None:
        """Say which trials are the best, and where their runs are."""
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
            if len(failed) < len(study.trials):
                return
            raise DataError(f"all {len(failed)} trials failed; the first: {failed[0].user_attrs['error']}")
        for trial in [study.best_trial] if len(self._names) == 1 else study.best_trials:
            chosen = " ".join(f"{name}={value}" for name, value in trial.params.items())
            log.info(
                "best: %s with %s in %s",
                self._told(trial.values),
                chosen,
                self._folder / trial.user_attrs["run"],
            )


def _begun(study: optuna.Study) -> int:
    """Trials that are over, or that this launch has left without a result."""
    return sum(
        trial.state.is_finished() or trial.state == TrialState.RUNNING
        for trial in study.get_trials(deepcopy=False)
    )

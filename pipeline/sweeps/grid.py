"""Sweeps: all combinations of the values, without runs that were computed before.

A finished run is recognised without composing it (`plan.py`). A job that fails, even while it is composed,
never stops the others; at the end the sweep reports which runs failed and why, with their folders.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from analysis.results.run_folder import RunFolder
from analysis.selection import OUTPUTS
from editors.errors import ConfigError, DataError, NormscopeError
from pipeline.config.allowed_classes import plugins_of
from pipeline.config.file_cache import keep_files
from pipeline.config.hydra_internals import combinations, result_of
from pipeline.config.schema import resolved
from pipeline.runs import messages
from pipeline.runs.heartbeat import is_elsewhere_computed
from pipeline.runs.input_digests import check_inputs, recorded_inputs
from pipeline.runs.layout import folder_of, summary_of
from pipeline.runs.messages import error_line
from pipeline.runs.objectives import Value
from pipeline.runs.provenance import other_code
from pipeline.sweeps import plan

log = logging.getLogger(__name__)


class SweepFailed(NormscopeError):
    """Some runs of a sweep failed; all others were computed."""


@runtime_checkable
class _Preloading(Protocol):
    """A launcher that starts its processes while jobs are composed."""

    def warm_up(self) -> None: ...


@dataclass(kw_only=True)
class _Job:
    """One combination of a sweep and its result."""

    overrides: list[str]
    invocation: str
    """Digest of everything that it is composed from."""
    folder: Path | None = None
    """The folder of its run; None if it cannot be composed."""
    before: bool = False
    """Whether an earlier launch computed it."""
    others: Sequence[str] = ()
    """Names of the code that is not as it was then."""
    objective: Value = None
    error: Exception | None = None

    def recall(self, folder: Path, plugins: Sequence[str]) -> None:
        """Take the result from its folder if it was computed before; `plugins` are the modules in use now."""
        self.folder, self.before = folder, RunFolder(folder).is_done
        if not self.before:
            return
        try:
            check_inputs(folder, recorded_inputs(folder))
            self.objective = summary_of(folder)["objective"]
            self.others = other_code(folder, plugins)
        except NormscopeError as error:
            self.before, self.error = False, error
        except KeyError:
            message = f"{folder}/summary.json has no objective: delete the folder to compute the run again"
            self.before, self.error = False, DataError(message)

    def take(self, result: JobReturn) -> None:
        """Keep the value or the error of a launcher's result, without the configuration in it."""
        if result.status == JobStatus.FAILED:
            self.error = result_of(result)
        else:
            self.objective = result.return_value

    @property
    def returned(self) -> JobReturn:
        """The result in the form of Hydra."""
        result = JobReturn(overrides=self.overrides)
        result.status = JobStatus.FAILED if self.error else JobStatus.COMPLETED
        result.return_value = self.error or self.objective
        return result


class Sweep(Sweeper):
    """All combinations, as Hydra's basic sweeper makes them, launched `max_batch_size` at a time.

    Not a subclass of the basic sweeper: Hydra executes that module again when it looks for plugins, so that
    the class imported before is then a different one.
    """

    def __init__(self, max_batch_size: int | None, params: Mapping[str, object]) -> None:
        self.max_batch_size, self.params = max_batch_size, params
        self._context: HydraContext
        self._shared: DictConfig
        self._launcher: Launcher
        self._files: str

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the context of Hydra, and make the launcher that the configuration names."""
        keep_files(hydra_context)
        self._context, self._shared = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """The result of every run.

        Raises:
            SweepFailed: if some failed, after all others were computed.
        """
        setup_globals()
        jobs = self._jobs(arguments)
        known = plan.known(OUTPUTS)
        for job in jobs:
            if job.invocation in known:
                job.recall(known[job.invocation], self._plugins)
        unknown = [job for job in jobs if not job.before and not job.error]
        if unknown and isinstance(self._launcher, _Preloading):
            self._launcher.warm_up()
        self._compose(unknown)
        runs = _distinct(jobs)
        pending = [job for job in runs if not job.before and not job.error]
        log.info("%d runs: %d to compute, %s", len(runs), len(pending), _already(runs))
        _warn_of_other_code(runs)
        size = self.max_batch_size or max(len(pending), 1)
        for start in range(0, len(pending), size):
            self._launch(pending[start : start + size], start)
        _conclude(runs)
        return [job.returned for job in runs]

    @property
    def _plugins(self) -> Sequence[str]:
        """The plug-in modules that all jobs share."""
        return plugins_of({"plugins": OmegaConf.to_object(self._shared.plugins)})

    def _jobs(self, arguments: Sequence[str]) -> list[_Job]:
        """All combinations."""
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        params = [f"{key}={value}" for key, value in self.params.items()]
        overrides = parser.parse_overrides([*params, *arguments])
        self._files = self._digest()
        return [
            _Job(overrides=combination, invocation=plan.invocation(self._files, combination))
            for combination in combinations(overrides)
        ]

    def _digest(self) -> str:
        """Digest of the files that jobs are composed from."""
        hydra = self._shared.hydra
        folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
        return plan.digest([*plan.sources_of(folders), hydra.job.config_name, *hydra.overrides.hydra])

    def _compose(self, jobs: Sequence[_Job]) -> None:
        """Determine the run of each job and whether it is done, and write the plan."""
        plans: dict[Path, list[plan.PlannedRun]] = {}
        for job in jobs:
            try:
                plain = resolved(self._composed(job))
                folder = folder_of(OUTPUTS, plain)
                recompute = plain["resume"] == "never"
                if recompute:
                    job.folder = folder
                else:
                    job.recall(folder, self._plugins)
            except Exception as error:  # the others continue in any case
                job.folder, job.error = None, error
                continue
            planned = plan.PlannedRun(
                run=folder.name,
                overrides=messages.publishable(job.overrides),
                invocation=None if recompute else job.invocation,
            )
            plans.setdefault(folder.parent, []).append(planned)
        unchanged = not plans or self._digest() == self._files
        for experiment, planned in plans.items():
            # the files were edited meanwhile: it is unknown which version a run comes from
            plan.merge(
                experiment, planned if unchanged else [replace(run, invocation=None) for run in planned]
            )

    def _composed(self, job: _Job) -> DictConfig:
        return self._context.config_loader.load_sweep_config(self._shared, job.overrides)

    def _launch(self, jobs: Sequence[_Job], start: int) -> None:
        try:
            results = self._launcher.launch([job.overrides for job in jobs], initial_job_idx=start)
        except ConfigError:
            raise  # nothing was started: no run has failed
        except Exception as error:
            # a launcher that gives up returns nothing about the jobs; their folders show which are done
            for job in jobs:
                job.error = None if job.folder and RunFolder(job.folder).is_done else error
        else:
            for job, result in zip(jobs, results, strict=True):
                job.take(result)


def _distinct(jobs: Sequence[_Job]) -> list[_Job]:
    """The first of the jobs that are the same run."""
    runs: dict[Path | str, _Job] = {}
    for job in jobs:
        runs.setdefault(job.folder or job.invocation, job)
    return list(runs.values())


def _already(runs: Sequence[_Job]) -> str:
    done, failed = sum(job.before for job in runs), sum(job.error is not None for job in runs)
    return f"{done} done already" + (f", {failed} that cannot be composed" if failed else "")


def _warn_of_other_code(runs: Sequence[_Job]) -> None:
    others = sorted({name for job in runs for name in job.others})
    if others:
        log.warning(
            "%d of them computed by other code of %s: resume=never computes them again",
            sum(bool(job.others) for job in runs),
            ", ".join(others),
        )


def _conclude(runs: Sequence[_Job]) -> None:
    """Report the outcome; raises SweepFailed if a run failed."""
    left = [job for job in runs if not job.error and job.folder and is_elsewhere_computed(job.folder)]
    for job in runs:
        if not job.error and job not in left and not (job.folder and RunFolder(job.folder).is_done):
            job.error = DataError("it is not done, and no process computes it: give the same command again")
    failed = [job for job in runs if job.error]
    before = sum(job.before for job in runs)
    computed = len(runs) - before - len(failed) - len(left)
    others = f", {len(left)} left to other processes" if left else ""
    log.info("%d computed, %d done before, %d failed%s", computed, before, len(failed), others)
    if done := [job.folder.parent for job in runs if job.folder and RunFolder(job.folder).is_done]:
        log.info(messages.next_command(*dict.fromkeys(done)))
    if not failed:
        return
    lines = messages.without_shared([messages.publishable(job.overrides) for job in runs])
    for job, line in zip(runs, lines, strict=True):
        if job.error:
            log.error("%s: %s%s", line, error_line(job.error), f" ({job.folder})" if job.folder else "")
    state = "complete" if not left else "complete or being computed"
    rest = f"; the others are {state}" if len(failed) < len(runs) else ""
    raise SweepFailed(f"{len(failed)} of {len(runs)} runs failed, for the reasons above{rest}")

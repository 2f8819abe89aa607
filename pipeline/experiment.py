"""One run: load → prepare → measure → for each step: change the model, measure, record → finish."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from analysis.results.outcome import mostly_missed, sentences
from pipeline.build import Parts, build
from pipeline.checkpoints.kept_weights import keep_weights
from pipeline.config.fingerprint import Config
from pipeline.config.schema import ResolvedConfig
from pipeline.data.opened_texts import in_sample, open_texts
from pipeline.interventions import distributed as processes
from pipeline.runs.folder import RunBusy, RunDir
from pipeline.runs.machine_errors import as_machine_error
from pipeline.runs.objectives import Value, objective_of
from pipeline.runs.signals import Interrupted, Requests
from pipeline.tracking.base import TrackerList, tracking
from pipeline.tracking.display import Display
from pipeline.tracking.jsonl import Jsonl
from pipeline.tracking.observer import Observer

log = logging.getLogger(__name__)


def execute(config: Config, parts: Parts, run: RunDir, requests: Requests, display: Display) -> Value:
    """Compute the run in its open folder and return its objective.

    Raises:
        Interrupted: if a signal requested it, once a checkpoint is saved and the tracker closed.
    """
    intervention = parts.intervention
    plan = intervention.plan(parts.data.load())
    open_texts([intervention, *parts.stages, *parts.judges], parts.model.name)
    for sentence in in_sample(intervention, parts.stages, parts.model.name):
        log.warning("%s", sentence)
    model = intervention.load(parts.model, plan, display.report)
    intervention.check(model, plan)
    plan = intervention.select(model, plan, display.report)
    log.info("%s: %d blocks on %s", model.name, model.depth, model.device)
    tracker = TrackerList(trackers=[Jsonl(run=run), parts.tracker])
    with tracking(tracker, config, run.info):
        for row in run.rows():
            parts.tracker.replay_row(row)
        for name, rows in run.tables.items():
            parts.tracker.table(name, rows)
        observer = Observer(
            stages=parts.stages,
            judges=parts.judges,
            tracker=tracker,
            plan=plan,
            reader=intervention.reader,
            run=run,
            requests=requests,
            display=display,
        )
        processes.agreed(processes.Start(run.saved))
        intervention.prepare(model, plan, display.report)
        observer.begin(model)
        with requests.stepping():
            with observer:
                intervention.run(model, plan, observer)
            if observer.stopped:
                log.warning("stopped by an alarm: %s", _progress(observer))
            if (outcome := observer.outcome) is not None:
                for sentence in sentences(outcome, intervention.remedies):
                    log.log(logging.WARNING if mostly_missed(outcome) else logging.INFO, "%s", sentence)
            summary = observer.summary()
            objective = objective_of(config, run.folder, {**summary, "metrics": observer.last})
            if config.get("keep_weights"):
                keep_weights(model, run.folder)
            run.finish(objective=objective, statistics=intervention.statistics, **summary)
            tracker.pictures(lambda: _drawn(run))
    return objective


def follow(parts: Parts, run: RunDir) -> None:
    """Do the share of another process than the first, which measures and records nothing."""
    start = processes.agreed(None)
    if start is None:
        return
    plan = parts.intervention.plan(parts.data.load())
    model = parts.intervention.load(parts.model, plan)
    plan = parts.intervention.select(model, plan)
    parts.intervention.prepare(model, plan)
    requests = Requests()
    follower = processes.FollowerObserver(
        stages=parts.stages, folder=run.folder, resumed=start.resumed, requests=requests
    )
    try:
        with requests, requests.stepping():
            parts.intervention.run(model, plan, follower)
    except Interrupted as interrupted:
        requests.depart(interrupted)


def _progress(observer: Observer) -> str:
    return ", ".join(
        f"{part.name} after {observer.counts.get(index, 0)} of {part.total} {part.unit}"
        for index, part in observer.parts.items()
    )


def _drawn(run: RunDir) -> Mapping[str, Path]:
    """The figures of this run alone, by name."""
    from analysis.plots.run_figures import (
        run_figures,  # here: the import takes a second, which a run without figures saves
    )

    return run_figures(run.folder, run.folder / "figures")


def compute(plain: ResolvedConfig, root: Path) -> Value:
    """Compute the run and return its objective; None if another process is computing it.

    Raises:
        MachineError: if the machine runs out of space or memory.
        SystemExit: if a signal requested it, once a checkpoint is saved.
    """
    transformers.logging.set_verbosity_error()  # its warnings are about other uses
    transformers.logging.disable_progress_bar()
    parts = build(plain)
    if plain["launcher"]["threads"] is not None:
        torch.set_num_threads(plain["launcher"]["threads"])
    on_cpu = plain["model"].get("device") == "cpu" or not torch.cuda.is_available()
    processes.join(parts.intervention, cpu=on_cpu)
    run = RunDir(root=root, config=plain)
    if not processes.is_first():
        follow(parts, run)
        return None
    requests = Requests()
    try:
        with requests:
            objective = _compute(plain, parts, run, requests)
            requests.answered()  # those that came while the run was finishing
            return objective
    except RunBusy as busy:
        log.warning("%s", busy)
        processes.agreed(None)
        return None
    except Interrupted as interrupted:
        log.warning("%s is %s: %s", run.folder, "done" if run.done else "interrupted", interrupted)
        requests.depart(interrupted)


def _compute(plain: ResolvedConfig, parts: Parts, run: RunDir, requests: Requests) -> Value:
    with as_machine_error(), run:
        if run.done:
            processes.agreed(None)
            return objective_of(plain, run.folder)
        with as_machine_error(), Display(run) as display:  # inside as well, so that FAILED holds the sentence
            return execute(plain, parts, run, requests, display)

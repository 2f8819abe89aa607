"""One run: load → prepare → measure → for each step: change the model, measure, record → finish."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.signatures import Judge
from analysis.stage import Stage
from editors.model.loading import Checkpoint
from pipeline import processes
from pipeline.data import FactSource
from pipeline.identity import Config
from pipeline.interventions import Intervention
from pipeline.kept import keep_weights
from pipeline.objectives import Value, objective_of
from pipeline.rundir import RunDir
from pipeline.signals import Interrupted, Requests
from pipeline.trackers import Jsonl, Many, Tracker, tracking
from pipeline.watch import Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything a run is made of, built from its configuration."""

    model: Checkpoint
    data: FactSource
    intervention: Intervention
    stages: Sequence[Stage]
    judges: Sequence[Judge] = ()
    tracker: Tracker


def execute(config: Config, parts: Parts, run: RunDir, requests: Requests) -> Value:
    """Compute the run in its open folder and return its objective.

    Raises:
        Interrupted: where a signal asked for it, once the state is saved and the tracker closed.
    """
    intervention = parts.intervention
    plan = intervention.plan(parts.data.load())
    model = parts.model.load()
    intervention.check(model, plan)
    log.info("%s: %d blocks on %s", model.name, model.depth, model.device)
    tracker = Many(trackers=[Jsonl(run=run), parts.tracker])
    with tracking(tracker, config, run.info):
        for row in run.rows():
            parts.tracker.again(row)
        for name, rows in run.tables.items():
            parts.tracker.table(name, rows)
        watch = Watch(
            stages=parts.stages,
            judges=parts.judges,
            tracker=tracker,
            plan=plan,
            run=run,
            requests=requests,
        )
        processes.agreed(processes.Start(run.saved))
        intervention.prepare(model, plan)
        watch.begin(model)
        with requests.stepping():
            with watch:
                intervention.run(model, plan, watch)
            if watch.stopped:
                log.warning("stopped by an alarm: %s", _progress(watch))
            told = watch.summary()
            objective = objective_of(config, run.folder, {**told, "metrics": watch.last})
            if config.get("keep_weights"):
                keep_weights(model, run.folder)
            run.finish(objective=objective, statistics=intervention.statistics, **told)
            tracker.pictures(lambda: _drawn(run))
    return objective


def follow(parts: Parts, run: RunDir) -> None:
    """What the other processes of a distributed run do: train along, measure and record nothing."""
    start = processes.agreed(None)
    if start is None:
        return
    plan = parts.intervention.plan(parts.data.load())
    model = parts.model.load()
    parts.intervention.prepare(model, plan)
    requests = Requests()
    silent = processes.Silent(
        stages=parts.stages, folder=run.folder, resumed=start.resumed, requests=requests
    )
    try:
        with requests, requests.stepping():
            parts.intervention.run(model, plan, silent)
    except Interrupted as interrupted:
        requests.depart(interrupted)


def _progress(watch: Watch) -> str:
    return ", ".join(
        f"{part.name} after {watch.counts.get(index, 0)} of {part.total} {part.unit}"
        for index, part in watch.parts.items()
    )


def _drawn(run: RunDir) -> Mapping[str, Path]:
    """The figures of this run alone, by name."""
    from analysis.report import run_figures  # here: whoever wants no figures need not wait for a second

    return run_figures(run.folder, run.folder / "figures")

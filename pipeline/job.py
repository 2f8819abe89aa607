"""Computes the run that a configuration describes, in its folder."""

import logging
from pathlib import Path

import torch
import transformers

from pipeline import processes
from pipeline.build import build
from pipeline.configuration import Plain
from pipeline.experiment import Parts, execute, follow
from pipeline.failures import told
from pipeline.objectives import Value, objective_of
from pipeline.rundir import RunBusy, RunDir
from pipeline.signals import Interrupted, Requests

log = logging.getLogger(__name__)


def compute(plain: Plain, root: Path) -> Value:
    """The objective of the run; none where another process is computing it right now.

    Raises:
        MachineError: where the machine has no space or memory left for it.
        SystemExit: where a signal asked for it, once the state is saved.
    """
    transformers.logging.set_verbosity_error()  # its warnings are about uses that are not ours
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
            requests.answered()  # what was asked while the run came to its end
            return objective
    except RunBusy as busy:
        log.warning("%s", busy)
        processes.agreed(None)
        return None
    except Interrupted as interrupted:
        log.warning("%s is %s: %s", run.folder, "done" if run.done else "interrupted", interrupted)
        requests.depart(interrupted)


def _compute(plain: Plain, parts: Parts, run: RunDir, requests: Requests) -> Value:
    with told(), run:
        if run.done:
            processes.agreed(None)
            return objective_of(plain, run.folder)
        with told():  # inside as well, so that the run is marked with the sentence
            return execute(plain, parts, run, requests)

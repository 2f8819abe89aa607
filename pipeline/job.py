"""Computes the run that a configuration describes, in its folder."""

import logging
from pathlib import Path

import torch
import transformers

from pipeline import processes
from pipeline.build import build
from pipeline.configuration import Plain
from pipeline.experiment import Parts, execute, follow
from pipeline.rundir import RunBusy, RunDir

log = logging.getLogger(__name__)


def compute(plain: Plain, root: Path) -> float | None:
    """The objective of the run.

    A run that another process is computing right now is left to it, and has no objective here.
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
    try:
        objective = _compute(plain, parts, run)
    except RunBusy as busy:
        log.warning("%s", busy)
        processes.agreed(None)
        objective = None
    return objective


def _compute(plain: Plain, parts: Parts, run: RunDir) -> float | None:
    if plain["resume"] == "never":
        run.discard()
    with run:
        if run.done:
            log.info("already computed; resume=never computes it again")
            processes.agreed(None)
            return run.objective
        return execute(plain, parts, run)

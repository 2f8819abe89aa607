"""Opens the folder of a run, computes it unless that was done already, and says where it is."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from pipeline.build import build, resolved
from pipeline.experiment import execute
from pipeline.rundir import RunDir

log = logging.getLogger(__name__)


def launch(config: DictConfig, root: Path) -> float | None:
    """The objective of the run that the configuration describes; prints its folder last."""
    plain = resolved(config)
    parts = build(plain)
    run = RunDir(root=root, config=plain)
    if plain["resume"] == "never":
        run.discard()
    with run:
        if run.done:
            log.info("already computed; resume=never computes it again")
            objective = run.objective
        else:
            objective = execute(plain, parts, run)
    print(run.folder)  # noqa: T201 - what a script reads
    return objective

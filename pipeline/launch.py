"""Finds the run of a configuration, computes it unless it is done, and prints its folder.

Called by `command_line.py` with the composed configuration; calls `experiment.py`, which computes the run.
"""

import logging
import os
import shutil
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from analysis.interrupts import discard_output, ending_at_once
from analysis.results.outcome import in_words, mostly_missed
from analysis.results.run_folder import RunFolder
from analysis.selection import OUTPUTS
from editors.errors import NormscopeError
from pipeline.config.allowed_classes import plugins_of
from pipeline.config.overrides.unused import unused
from pipeline.config.schema import resolved
from pipeline.runs.checkpoint_store import FOLDER
from pipeline.runs.input_digests import check_inputs, recorded_inputs
from pipeline.runs.layout import folder_of, point_latest
from pipeline.runs.messages import next_command
from pipeline.runs.objectives import Value, objective_of
from pipeline.runs.provenance import other_code

log = logging.getLogger(__name__)


def task(config: DictConfig) -> Value:
    """One run; in a sweep Hydra calls this once per run, in this process or in others."""
    for sentence in unused(config, HydraConfig.get().overrides.task):
        log.warning("%s", sentence)
    try:
        return launch(config, OUTPUTS)
    except NormscopeError as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            # past Hydra, which would announce a failed job first; command_line.py raises the cause
            raise SystemExit(1) from error
        log.error("%s", error)
        raise


def launch(config: DictConfig, root: Path) -> Value:
    """The objective of the configured run; prints the run's folder last."""
    plain = resolved(config)
    folder = folder_of(root, plain)
    if RunFolder(folder).is_done and plain["resume"] != "never":
        if others := other_code(folder, plugins_of(plain)):
            log.warning(
                "already computed by other code of %s: resume=never computes it again", ", ".join(others)
            )
        else:
            log.info("already computed; resume=never computes it again")
        check_inputs(folder, recorded_inputs(folder))
        if (outcome := RunFolder(folder).summary().get("outcome")) and mostly_missed(outcome):
            log.warning("only %s", in_words(outcome))
        shutil.rmtree(folder / FOLDER, ignore_errors=True)  # left if its process was killed at the very end
        objective = objective_of(plain, folder)
    else:
        # imported here, because torch takes seconds to import and a finished run does not need it
        with ending_at_once():
            from pipeline.experiment import compute
        objective = compute(plain, root)
    if os.environ.get("RANK", "0") == "0":  # only the first of several processes that train together
        point_latest(folder)
        try:
            print(folder, flush=True)  # noqa: T201 - for scripts that read standard output
        except BrokenPipeError:
            discard_output()  # the other runs of a sweep continue
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN:
            log.info(next_command(folder))
    return objective

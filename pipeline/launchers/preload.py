"""Modules that every job of a pool needs, imported once by the server that the jobs are forked from.

Nothing may be computed here: threads and an initialised CUDA do not survive a fork.
"""

import gc
import importlib
import signal
import sys

import transformers.modeling_utils  # noqa: F401 - otherwise every job imports it for its model, in two seconds
from hydra.core.plugins import Plugins

import analysis.plots.run_figures  # noqa: F401 - the figures at the end of a run
import pipeline.experiment  # noqa: F401

Plugins.instance()

# the stage imports the harness when it is first used, because that takes seconds
if "analysis.stages.downstream.stage" in sys.modules:
    importlib.import_module("analysis.stages.downstream.harness")

# the sweep ends its jobs; the server ends when no process is left that could request one
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # jobs have nothing to save before their runs begin
gc.collect()
gc.freeze()  # a collection in a job would write to, and so copy, the memory of all imports

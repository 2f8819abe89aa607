"""The commands: `python -m pipeline editor=memit edits=100`, or `normscope …`.

`python -m pipeline status outputs/…` and the other `COMMANDS` work on finished or running runs.
"""

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from editors.errors import ConfigError, NormscopeError
from pipeline.commands import measure
from pipeline.config.hydra_internals import parsed, register_plugin
from pipeline.config.models.published import with_values
from pipeline.config.overrides.groups import group_problems
from pipeline.config.overrides.quoting import quoted, with_facts
from pipeline.config.overrides.refused import sentence
from pipeline.config.overrides.sources import with_sources
from pipeline.config.resolvers import register_resolvers
from pipeline.launch import task
from pipeline.launchers.pool import Pool
from pipeline.paths import CONF
from pipeline.runs.messages import error_line
from pipeline.runs.signals import SAVE
from pipeline.sweeps import search
from pipeline.sweeps.grid import Sweep

COMMANDS = ("status", "export", "ledger", "keep", "upload", "dashboard", "build_world", "facts")
"""Modules of `pipeline.commands`, each with its own `main`."""
MEASURE, SUGGEST = "measure", "suggest"
"""The command that stands for the options of a run, and the one that runs a search."""


def run() -> None:
    """Run the command line; a user's mistake gives one sentence and exit status 1."""
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        sys.exit(importlib.import_module(f"pipeline.commands.{sys.argv[1]}").main(sys.argv[2:]))
    signal.signal(SAVE, signal.SIG_IGN)  # outside the steps of a run there is nothing to save
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors unchanged
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # one progress bar is enough
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # waiting threads soon leave the cores to others
    register_resolvers()
    _register_plugins()
    search.install()
    try:
        if sys.argv[1:2] == [SUGGEST]:
            # imported here, because torch takes seconds to import
            from pipeline.commands import suggest

            sys.exit(suggest.main(sys.argv[2:], _compute))
        _compute(measure.overrides(sys.argv[2:]) if sys.argv[1:2] == [MEASURE] else sys.argv[1:])
    except NormscopeError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {_message(error)}")
    except MarkedYAMLError as error:
        sys.exit(f"error: {error_line(error)}")
    except BrokenPipeError:
        raise  # nobody reads the output any more
    except OSError as error:
        sys.exit(f"error: {error.strerror or error}: {error.filename or ''}")


def _compute(arguments: Sequence[str]) -> None:
    """Compose the configuration and compute its run or its sweep."""
    sys.argv[1:] = quoted(with_values(with_facts(with_sources(arguments))))
    # composed by Hydra, which would raise a ValueError for these
    if problems := list(group_problems([a for a in sys.argv[1:] if not a.startswith("-")])):
        raise ConfigError("\n".join(problems))
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except SystemExit as left:
        if isinstance(left.__cause__, NormscopeError):
            raise left.__cause__ from None
        raise


def _register_plugins() -> None:
    """Make this project's sweepers and launchers known to Hydra."""
    with suppress(ImportError):  # the extra `slurm` is not installed
        from pipeline.launchers.slurm import SlurmSweep

        register_plugin("SlurmSweep", SlurmSweep)
    register_plugin("Sweep", Sweep)
    register_plugin("Pool", Pool)


def _message(error: Exception) -> str:
    """Hydra's message with its cause, which often names the actual mistake, and a hint."""
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    hint = ""
    overrides, folder = parsed(sys.argv[1:])
    first = sentence(error, overrides, Path(folder) if folder else None)
    if "add --multirun" in str(error):
        hint = "\nlauncher=pool and slurm sweep without it: check the spelling of launcher= and launcher.*"
    if (part := "stage/downstream/tasks") in str(error) and "Could not override" in str(error):
        hint = f"\n{part} is chosen, and stage=[…] leaves out what has them: add downstream to the list"
    if sys.argv[1:2] and (
        close := difflib.get_close_matches(sys.argv[1], (*COMMANDS, MEASURE, SUGGEST), n=1)
    ):
        hint = f"\ndid you mean python -m pipeline {close[0]}?"
    return f"{first or f'{error}{cause}'}{hint}"

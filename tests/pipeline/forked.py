"""Command lines in processes that are forked from one that has imported the libraries, which takes 7 s.

Such a process has arguments, a folder, an environment, an exit status and output of its own, as one that is
started by the interpreter has. What depends on the start itself, such as which modules are imported or what
writes to standard output, needs a process of the interpreter.
"""

import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

from pipeline.launchers.pool import PRELOAD


def fork_server() -> ForkServerContext:
    """Context of processes that are forked from one with the libraries of a run.

    A process has one such server for as long as it lives, so every test that needs one starts this.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    multiprocessing.forkserver.ensure_running()
    return context


def forked(
    arguments: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str],
    search: Sequence[Path] = (),
    module: str = "pipeline.__main__",
) -> CompletedProcess[str]:
    """A command line, that of `module`, in the folder, with `search` as its PYTHONPATH; waits for its end."""
    with TemporaryDirectory() as output:
        process = started(
            arguments, folder, Path(output), environment=environment, search=search, module=module
        )
        process.join()
        texts = [(Path(output) / name).read_text() for name in ("out", "err")]
        return CompletedProcess(arguments, process.exitcode or 0, *texts)


def started(
    arguments: Sequence[str],
    folder: Path,
    output: Path,
    *,
    environment: Mapping[str, str],
    search: Sequence[Path] = (),
    module: str = "pipeline.__main__",
) -> ForkServerProcess:
    """The same process while it runs; it writes into the files `out` and `err` of the folder `output`."""
    process = fork_server().Process(
        target=_run, args=(module, list(arguments), folder, dict(environment), list(search), output)
    )
    process.start()
    return process


def _run(
    module: str,
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    search: list[Path],
    output: Path,
) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = map(str, search)
    sys.argv = [module.removesuffix(".__main__"), *arguments]
    sys.exit(importlib.import_module(module).main())

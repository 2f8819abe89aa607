"""Command lines in processes that are forked from one that has imported the libraries, which takes 7 s.

Such a process has arguments, a folder, an environment, an exit status and output of its own, as one that is
started by the interpreter has. What depends on the start itself, such as which modules are imported or what
writes to standard output, needs a process of the interpreter.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

from pipeline.launchers.pool import PRELOAD


def forked(
    arguments: Sequence[str], folder: Path, *, environment: Mapping[str, str], search: Sequence[Path] = ()
) -> CompletedProcess[str]:
    """`python -m pipeline ARGUMENTS` in the folder, with `search` as its PYTHONPATH; waits for its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    with TemporaryDirectory() as output:
        process = context.Process(
            target=_run, args=(list(arguments), folder, dict(environment), list(search), Path(output))
        )
        process.start()
        process.join()
        texts = [(Path(output) / name).read_text() for name in ("out", "err")]
        return CompletedProcess(arguments, process.exitcode or 0, *texts)


def _run(
    arguments: list[str], folder: Path, environment: dict[str, str], search: list[Path], output: Path
) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = map(str, search)
    sys.argv = ["pipeline", *arguments]
    from pipeline.__main__ import main

    main()

"""Two hundred short runs through the pool, the same command again, and ten thousand runs composed and tabled.

`python -m tests.load`, or with `--runs 20` fewer of the first.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from pipeline.launchers.hardware import usable_cores
from tests.fake_runs import write_random_runs
from tests.paths import ROOT

AGAIN_SECONDS = 10.0
COLLECT_SECONDS = 20.0
MANY, MANY_SECONDS, MANY_GIB = 10_000, 120.0, 2.0
"""Runs, and what composing them, the table of their states and their report may take each."""
GROWTH_MIB = 8.0
"""Largest growth of the sweep's own process, from the end of its first quarter to its last, in MiB."""
WHOLE = {"DONE", "config.yaml", "job.log", "metrics.jsonl", "provenance.json", "summary.json"}


@dataclass(kw_only=True)
class Launch:
    """Time, memory and processes of a launch of the sweep."""

    seconds: float
    rss: list[float]
    """MiB of the sweep's own process, once a second."""
    threads: int
    """Threads of that process, at most."""
    processes: set[psutil.Process] = field(default_factory=set)
    """All of its descendants."""


def main() -> None:
    """Measure everything and report the missed targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        missed = [sentence for sentence, ok in _measured(Path(folder), runs) if not ok]
    sys.exit(f"missed: {'; '.join(missed)}" if missed else 0)


def _measured(folder: Path, runs: int) -> Iterator[tuple[str, bool]]:
    for sentence, ok in chain(_sweep(folder, runs), _collection(folder), _planned(), _many(folder)):
        print(f"{'ok    ' if ok else 'MISSED'} {sentence}", flush=True)  # noqa: T201
        yield sentence, ok


def _sweep(folder: Path, runs: int) -> Iterator[tuple[str, bool]]:
    first = launch(folder, runs)
    contents = ({file.name for file in each.iterdir()} for each in folder.glob("outputs/load/*-*/"))
    whole = [files for files in contents if files >= WHOLE]
    yield f"{len(whole)} of {runs} folders complete after {first.seconds:.0f} s", len(whole) == runs
    quarter = max(1, len(first.rss) // 4)
    grown = statistics.median(first.rss[-quarter:]) - first.rss[quarter]
    yield f"the sweep's process has {max(first.rss):.0f} MiB, grew by {grown:.1f} MiB", grown <= GROWTH_MIB
    yield f"it has {first.threads} threads at most", first.threads <= 4
    _, left = psutil.wait_procs(first.processes, timeout=10)  # the server notices that nobody is left
    yield f"{len(left)} of {len(first.processes)} observed processes are left", not left
    stray = [path for path in folder.rglob("*") if path.suffix in (".part", ".tmp") or _is_locked(path)]
    yield f"{len(stray)} temporary files or locks are left", not stray
    again = launch(folder, runs)
    yield f"the same command again takes {again.seconds:.1f} s", again.seconds <= AGAIN_SECONDS


def launch(folder: Path, runs: int) -> Launch:
    """The sweep's command, observed until it ends; raises CalledProcessError if it fails."""
    command = [
        sys.executable, "-m", "pipeline", "model=tiny-gpt2", "data=world", "edits=20", "stage=[norms]",
        "tracker=none", "launcher=pool", f"launcher.jobs={usable_cores()}", "launcher.threads=1",
        "name=load", f"seed=range({runs})",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    begun = time.monotonic()
    launched = Launch(seconds=0.0, rss=[], threads=0)
    with (folder / "load.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        sweep = psutil.Process(process.pid)
        while process.poll() is None:
            _observe(sweep, launched)
            time.sleep(1.0)
    launched.seconds = time.monotonic() - begun
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, (folder / "load.log").read_text())
    return launched


def _observe(process: psutil.Process, launched: Launch) -> None:
    try:
        launched.rss.append(process.memory_info().rss / 2**20)
        launched.threads = max(launched.threads, process.num_threads())
        launched.processes |= set(process.children(recursive=True))
    except psutil.NoSuchProcess:
        pass


def _is_locked(path: Path) -> bool:
    if not path.name.endswith(".lock"):
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _collection(folder: Path) -> Iterator[tuple[str, bool]]:
    from analysis.results.collection import collect

    write_random_runs(folder / "synthetic", runs=1000, rows=100)
    begun = time.monotonic()
    collection = collect(folder / "synthetic")
    seconds = time.monotonic() - begun
    sentence = (
        f"{len(collection.runs)} runs with {len(collection.metrics)} numbers are collected in {seconds:.1f} s"
    )
    yield sentence, seconds <= COLLECT_SECONDS and len(collection.runs) == 1000


def _planned() -> Iterator[tuple[str, bool]]:
    from pipeline.config.file_cache import keep_files
    from pipeline.config.schema import resolved
    from pipeline.runs.layout import run_name
    from tests.pipeline.sweeping import context_of

    context, shared = context_of(["name=load"])
    keep_files(context)
    editors = ("memit", "encore", "alphaedit", "rome")
    begun = time.monotonic()
    jobs = (
        [f"editor={editor}", f"seed={seed}"] for editor in editors for seed in range(MANY // len(editors))
    )
    names = {run_name(resolved(context.config_loader.load_sweep_config(shared, job))) for job in jobs}
    seconds = time.monotonic() - begun
    sentence = f"{len(names)} jobs of a sweep are composed in {seconds:.0f} s"
    yield sentence, seconds <= MANY_SECONDS and len(names) == MANY


def _many(folder: Path) -> Iterator[tuple[str, bool]]:
    write_random_runs(folder / "many", runs=MANY, rows=20)
    for module, command in (("pipeline", "status"), ("analysis", "report")):
        seconds, gib = _measured_command(folder, "-m", module, command, str(folder / "many"))
        sentence = f"{command} of {MANY} runs takes {seconds:.0f} s and {gib:.2f} GiB"
        yield sentence, seconds <= MANY_SECONDS and gib <= MANY_GIB


def _measured_command(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and largest memory, in GiB, of a Python process; raises CalledProcessError if it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    begun = time.monotonic()
    with (folder / "many.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(code, arguments, (folder / "many.log").read_text())
    return time.monotonic() - begun, usage.ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


if __name__ == "__main__":
    main()

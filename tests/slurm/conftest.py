"""A real Slurm on this machine, and sweeps on it as a user starts them."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.paths import ROOT

SCRIPT = Path(__file__).with_name("cluster.sh")
DAEMON_LOGS = ("slurmctld.log", "slurmd.log")
# seconds until a wait fails; other work may keep the machine busy
PATIENCE = 240
RUN = [
    "launcher.threads=1",
    "editor=ft",
    "stage=[norms]",
    "tracker=none",
    "name=test",
]


@dataclass(frozen=True)
class Cluster:
    """A running Slurm."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    """Commands that were started."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment of its clients; modules are found in the current folder or this checkout."""
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}

    def ask(self, *command: str) -> str:
        """Output of a Slurm command."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def states(self) -> dict[str, str]:
        """State by job and array index, such as `12_0`, of all jobs that Slurm knows."""
        lines = self.ask("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T").split()
        return dict(line.split("|") for line in lines)

    def is_idle(self) -> bool:
        """Whether Slurm counts no job on its node, not even one that is ending."""
        return set(self.ask("sinfo", "-h", "-o", "%T").split()) == {"idle"}

    def history(self, job: str) -> str:
        """What Slurm's daemons wrote about a job, and the end of each log."""
        about = re.compile(rf"JobId={job}\b|\[{job}\.|job {job}\b", re.IGNORECASE)
        logs = [(self.folder / "log" / name).read_text().splitlines() for name in DAEMON_LOGS]
        return "\n".join(line for lines in logs for line in [*filter(about.search, lines), "…", *lines[-5:]])

    def is_served(self, job: str) -> bool:
        """Whether a daemon of the node still serves this job."""
        names = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
        return any(name.startswith(f"slurmstepd: [{job}.") for name in names)

    def start(self, folder: Path, *arguments: str, code: Path = ROOT) -> "Sweep":
        """Give a command in a folder."""
        folder.mkdir(exist_ok=True)
        memory = ["hydra.launcher.mem_gb=2"] if "launcher=slurm" in " ".join(arguments) else []
        command = [sys.executable, "-m", "pipeline", *RUN, *memory, *arguments]
        environment = self.environment | {"PYTHONPATH": str(code)}
        with (folder / "output").open("w") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
            )
        self.started.append(process)
        return Sweep(self, folder, process)


@dataclass(frozen=True)
class Sweep:
    """A command that waits for its jobs."""

    cluster: Cluster
    folder: Path
    process: subprocess.Popen[str]

    @property
    def output(self) -> str:
        """Everything that it has printed."""
        return (self.folder / "output").read_text()

    def ended(self) -> int:
        """Wait for it, and return its exit status."""
        return self.process.wait(timeout=PATIENCE)

    def job(self) -> str:
        """The number of its job array, once it is queued."""
        self.until(lambda: "queued as Slurm job " in self.output)
        return self.output.split("Slurm job ")[1].split(":")[0]

    def task(self, index: int | None) -> psutil.Process:
        """The Python process of its job of this index, None for a single job, once it runs."""
        tasks: list[psutil.Process] = []
        self.until(lambda: tasks.extend(self._tasks(index)) or bool(tasks))
        return tasks[0]

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + PATIENCE
        while not holds():
            assert self.process.poll() is None, f"ended before it was expected to:\n{self.output}"
            assert time.monotonic() < end, f"waited too long:\n{self.output}\n{self.cluster.states()}"
            time.sleep(0.1)

    def marks(self) -> list[str]:
        """Outcomes of its runs."""
        return sorted(path.name for mark in ("DONE", "FAILED") for path in self.runs(mark))

    def runs(self, holding: str) -> list[Path]:
        """Files of this name in its runs."""
        return sorted(self.folder.glob(f"outputs/test/*-*/{holding}"))

    def _tasks(self, index: int | None) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                is_job = "submitit.core._submit" in process.cmdline() and process.name() != "srun"
                if not is_job or process.cwd() != str(self.folder):
                    continue
                array_index = process.environ().get("SLURM_ARRAY_TASK_ID")
            except psutil.Error:  # it has ended meanwhile
                continue
            if array_index == (None if index is None else str(index)):
                yield process


def _cluster(folder: Path, *, accounting: bool) -> Iterator[Cluster]:
    needed = ["slurmctld", "slurmd", "munged", *(["slurmdbd", "mariadbd"] if accounting else [])]
    if missing := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install slurm-wlm munge slurmdbd mariadb-server")
    if os.geteuid() != 0:
        pytest.skip("only root can start Slurm's daemons")
    environment = os.environ | {"ACCOUNTING": str(int(accounting))}
    cluster = Cluster(folder)
    try:
        subprocess.run(
            ["bash", SCRIPT, "start", folder], env=environment, check=True, stdin=subprocess.DEVNULL
        )
        yield cluster
    finally:
        subprocess.run(["bash", SCRIPT, "stop", folder], check=True)
        for process in cluster.started:
            process.wait()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm without accounts, as many small ones are: `sacct` says nothing there."""
    yield from _cluster(tmp_path_factory.mktemp("slurm"), accounting=False)


@pytest.fixture(scope="session")
def accounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm that keeps accounts in a database."""
    yield from _cluster(tmp_path_factory.mktemp("accounted"), accounting=True)

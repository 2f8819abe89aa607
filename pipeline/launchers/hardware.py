"""GPUs and CPU cores of this machine, divided among several runs at a time."""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The devices of `CUDA_VISIBLE_DEVICES`, otherwise all that nvidia-smi lists; CUDA is not initialised."""
    devices = environment.get("CUDA_VISIBLE_DEVICES")
    if devices is not None:
        names = [name.strip() for name in devices.split(",")]
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listing = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(i) for i, _ in enumerate(re.findall(r"^GPU ", listing.stdout, flags=re.MULTILINE))]


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(gpus: int, cores: int) -> int:
    """Default number of runs at a time: one per GPU; without GPUs one per two cores."""
    return gpus or max(1, cores // 2)


def gpu_of(slot: int, gpus: Sequence[str]) -> str | None:
    """The GPU of a slot; one job at a time has the slot, and GPUs are assigned in turn."""
    return gpus[slot % len(gpus)] if gpus else None

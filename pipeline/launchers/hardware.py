"""What a machine offers to several runs at a time."""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` names, otherwise every GPU that nvidia-smi finds; CUDA stays untouched."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    found = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(i) for i, _ in enumerate(re.findall(r"^GPU ", found.stdout, flags=re.MULTILINE))]


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(gpus: int, cores: int) -> int:
    """Runs at a time where nobody says: one on each GPU, without GPUs one on two cores."""
    return gpus or max(1, cores // 2)


def gpu_of(slot: int, gpus: Sequence[str]) -> str | None:
    """The GPU of a slot, which one job has at a time: dealt out in turn."""
    return gpus[slot % len(gpus)] if gpus else None

"""Jobs for a pool, in a module that its processes can import."""

import os
import signal
import sys
import time
from pathlib import Path

from omegaconf import DictConfig

from editors.errors import DataError


def task(config: DictConfig) -> float:
    """What the seed asks for; otherwise the seed."""
    deeds = {10: _kill, 11: _exit, 12: _fail, 13: _break, 14: _linger, 15: _save, 16: _leave}
    deeds.get(config.seed, float)()
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), file=sys.stderr)  # noqa: T201
    return float(config.seed)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    os._exit(3)


def _fail() -> None:
    raise DataError("the facts are of no use")


def _break() -> None:
    raise ValueError("nobody foresaw this\nin two lines")


def _leave() -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _linger() -> None:
    """Leave as a run does that was asked to."""
    Path("lingers").touch()
    try:
        time.sleep(60)
    finally:
        Path("saved").touch()


def _save() -> None:
    """Save when a run is asked to, and go on."""
    signal.signal(signal.SIGUSR1, lambda *_: Path("saved").touch())
    Path("lingers").touch()
    for _ in range(600):
        if Path("saved").exists():
            return
        time.sleep(0.05)
    raise TimeoutError

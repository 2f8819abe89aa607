"""The heartbeat of a run: which process computes it and its progress, in `progress.json`.

The operating system releases a lock when its process ends. On a file system without such locks, or one that
keeps the lock of a host that is gone, the age of the last beat shows whether the process still runs.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from analysis.results.run_files import read_object
from analysis.results.run_folder import RunFolder
from pipeline.runs.atomic_files import write_json

NAME = "progress.json"
SECONDS = 15.0
"""Largest time between two beats, in seconds."""
SILENCE = 120.0
"""Seconds without a beat after which a process on another host is regarded as gone."""
WATCHED = 2 * SECONDS
"""Seconds for which no new beat may appear before a run is taken over: clocks of hosts differ."""
_OFTEN = 1.0
"""Smallest time between two beats, in seconds."""


class Heartbeat:
    """Writes `progress.json` periodically inside this context; the file of an interrupted run remains."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._owner = secrets.token_hex(4)
        self._parts: Sequence[Mapping[str, object]] = ()
        self._started = time.time()
        self._written = 0.0
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.is_lost = False
        """Whether another process has taken the run over, because this one wrote no beat for too long."""

    def __enter__(self) -> Self:
        """Write the first beat."""
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write the last beat, unless the file was removed."""
        if self._end():
            self._write()

    def check(self) -> bool:
        """Whether the run still belongs to this process."""
        if self._thread.is_alive() and (read_progress(self._path.parent) or {}).get("owner") != self._owner:
            self.is_lost = True
        return not self.is_lost

    def report_progress(self, parts: Sequence[Mapping[str, object]]) -> None:
        """Record the progress of the parts: name, unit, total and count of each."""
        self._parts = parts
        if time.time() - self._written > _OFTEN:
            with self._writing:
                self._write()

    def remove(self) -> None:
        """Stop and remove the file: the run has ended."""
        self._end()
        self._path.unlink(missing_ok=True)

    def _end(self) -> bool:
        """Stop the thread; False if it had ended already."""
        if not self._thread.is_alive():
            return False
        self._ended.set()
        self._thread.join()
        return True

    def _beat(self) -> None:
        while not self._ended.wait(SECONDS):
            with self._writing:
                self._write()

    def _write(self) -> None:
        if self._written and not self.check():
            return
        self._written = time.time()
        with suppress(OSError):  # a full disk is reported when the run itself writes
            write_json(
                self._path,
                {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "owner": self._owner,
                    "started": self._started,
                    "beat": self._written,
                    "parts": list(self._parts),
                },
                durable=False,
            )


def read_progress(folder: Path) -> dict[str, Any] | None:
    """The last beat of the process that computes the run; None if there is no complete beat."""
    beat = read_object(folder / NAME) or {}
    return beat if beat.keys() >= {"host", "pid", "owner", "beat"} else None


def is_elsewhere(beat: Mapping[str, Any]) -> bool:
    """Whether the beat is of a process on another host."""
    return beat["host"] != socket.gethostname()


def is_abandoned(beat: Mapping[str, Any]) -> bool:
    """Whether the holder of the lock is gone; a lock of this host is released with its process."""
    return is_elsewhere(beat) and is_gone(beat)


def stays_silent(folder: Path, beat: Mapping[str, Any]) -> bool:
    """Whether no new beat appears within `WATCHED` seconds; returns after that time."""
    time.sleep(WATCHED)
    return (read_progress(folder) or {}).get("beat") == beat["beat"]


def is_gone(beat: Mapping[str, Any]) -> bool:
    """Whether the process of the beat has ended: by its id on this host, by the age of the beat elsewhere."""
    if not is_elsewhere(beat):
        return not psutil.pid_exists(int(beat["pid"]))
    return time.time() - float(beat["beat"]) > SILENCE


def is_elsewhere_computed(folder: Path) -> bool:
    """Whether another process is computing the run."""
    beat = read_progress(folder)
    if beat is None or RunFolder(folder).is_done:
        return False
    return not is_gone(beat) and (is_elsewhere(beat) or beat["pid"] != os.getpid())

"""Signs of life of a run: who computes it and how far it is, in `progress.json`, for people and processes.

A lock of the operating system goes with its process. On a file system without such locks, or that keeps them
for a host that is gone, the age of the last beat tells whether somebody is still there.
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

from pipeline.runs.atomic_files import read_json, write_json
from pipeline.runs.layout import is_done

NAME = "progress.json"
SECONDS = 15.0
"""Between two beats at the most."""
SILENCE = 120.0
"""Seconds without a beat after which a process on another host counts as gone."""
WATCHED = 2 * SECONDS
"""Seconds for which its silence is watched before it is believed: clocks of hosts differ."""
_OFTEN = 1.0
"""Seconds between two beats at the least."""


class Heartbeat:
    """Writes `progress.json` from time to time, as a context; the file stays where a run was interrupted."""

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
        """Whether another process has taken the run over, because this one was silent for too long."""

    def __enter__(self) -> Self:
        """The first beat."""
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The last one, unless the file was removed."""
        if self._end():
            self._write()

    def check(self) -> bool:
        """Whether the run is still this process's."""
        if self._thread.is_alive() and (read(self._path.parent) or {}).get("owner") != self._owner:
            self.is_lost = True
        return not self.is_lost

    def report_progress(self, parts: Sequence[Mapping[str, object]]) -> None:
        """How far the parts of the run are: name, unit, total and count of each."""
        self._parts = parts
        if time.time() - self._written > _OFTEN:
            with self._writing:
                self._write()

    def remove(self) -> None:
        """End: of a run that is over nothing has to be told."""
        self._end()
        self._path.unlink(missing_ok=True)

    def _end(self) -> bool:
        """Whether this is what ended it."""
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
        with suppress(OSError):  # a full disk is told by what the run itself writes
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


def read(folder: Path) -> dict[str, Any] | None:
    """What the process that computes the run last told of itself; None where nothing whole is to be read."""
    told = read_json(folder / NAME)
    return told if told.keys() >= {"host", "pid", "owner", "beat"} else None


def is_elsewhere(told: Mapping[str, Any]) -> bool:
    """Whether a process of another host told this."""
    return told["host"] != socket.gethostname()


def is_abandoned(told: Mapping[str, Any]) -> bool:
    """Whether a lock that is held stands for nobody: on this host one goes with its process."""
    return is_elsewhere(told) and is_gone(told)


def stays_silent(folder: Path, told: Mapping[str, Any]) -> bool:
    """Whether nothing is heard of the process for a while; returns after `WATCHED` seconds."""
    time.sleep(WATCHED)
    return (read(folder) or {}).get("beat") == told["beat"]


def is_gone(told: Mapping[str, Any]) -> bool:
    """Whether the process that told this is no more: on this host by its number, elsewhere by its silence."""
    if not is_elsewhere(told):
        return not psutil.pid_exists(int(told["pid"]))
    return time.time() - float(told["beat"]) > SILENCE


def is_elsewhere_computed(folder: Path) -> bool:
    """Whether another process computes the run now."""
    beat = read(folder)
    if beat is None or is_done(folder):
        return False
    return not is_gone(beat) and (is_elsewhere(beat) or beat["pid"] != os.getpid())

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
from typing import Annotated, Any, Literal, NotRequired, Self

import psutil
from pydantic import Field
from typing_extensions import TypedDict

from analysis.results.run_files import Count, FileType, Number, read_object, typed
from analysis.results.run_folder import RunFolder
from editors.phases import Phase
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
_SAME_START = 5.0
"""Seconds by which two readings of a process's start may differ: the clock may have been set meanwhile."""
_PIDS = 1 << 31
"""Larger than any id of a process."""


@typed
class _Part(TypedDict):
    unit: Literal["edits", "steps"]
    total: Count
    count: Count


@typed
class _Beat(TypedDict):
    """`progress.json`; older ones lack some fields."""

    host: str
    pid: Annotated[int, Field(gt=0, lt=_PIDS)]
    born: NotRequired[Number | None]
    owner: str
    beat: Number
    started: NotRequired[Number | None]
    parts: NotRequired[list[_Part] | None]
    phase: NotRequired[str | None]


_BEATS = FileType(_Beat)


class Heartbeat:
    """Writes `progress.json` periodically inside this context; the file of an interrupted run remains."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._owner = secrets.token_hex(4)
        self._parts: Sequence[Mapping[str, object]] = ()
        self._phase = ""
        self._changed = False
        self._started, self._born = time.time(), psutil.Process().create_time()
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
        """Whether the run still belongs to this process: nobody else writes beats here or has ended the run.

        A file that was deleted or damaged is written again.
        """
        if self._thread.is_alive():
            beat = read_progress(self._path.parent)
            ended = RunFolder(self._path.parent).state != "unfinished"
            self.is_lost |= ended if beat is None else beat["owner"] != self._owner
        return not self.is_lost

    def report_progress(self, parts: Sequence[Mapping[str, object]]) -> None:
        """Record the progress of the parts: name, unit, total and count of each; a phase has ended."""
        self._parts, self._phase = parts, ""
        self._update()

    def report_phase(self, phase: Phase) -> None:
        """Record the present phase of a preparation, or of a long measurement."""
        self._phase = str(phase)
        self._update()

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

    def _update(self) -> None:
        """Write what has changed: now, or in the thread if the file was written a moment ago."""
        self._changed = True
        if time.time() - self._written > _OFTEN:
            with self._writing:
                self._write()

    def _beat(self) -> None:
        while not self._ended.wait(_OFTEN):
            if self._changed or time.time() - self._written > SECONDS:
                with self._writing:
                    self._write()

    def _write(self) -> None:
        if self._written and not self.check():
            return
        self._written, self._changed = time.time(), False
        with suppress(OSError):  # a full disk is reported when the run itself writes
            write_json(
                self._path,
                {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "born": self._born,
                    "owner": self._owner,
                    "started": self._started,
                    "beat": self._written,
                    "parts": list(self._parts),
                    "phase": self._phase,
                },
                durable=False,
            )


def read_progress(folder: Path) -> dict[str, Any] | None:
    """The last beat of the process that computes the run; None if there is no complete and plausible beat."""
    beat = read_object(folder / NAME)
    return None if beat is None or _BEATS.problem(beat) else beat


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
    """Whether the process of the beat has ended: by its id and start here, elsewhere by the beat's age."""
    if not is_elsewhere(beat):
        return not _is_running(beat["pid"], beat.get("born"))
    return abs(time.time() - beat["beat"]) > SILENCE


def is_elsewhere_computed(folder: Path) -> bool:
    """Whether another process is computing the run."""
    beat = read_progress(folder)
    if beat is None or RunFolder(folder).is_done:
        return False
    return not is_gone(beat) and (is_elsewhere(beat) or beat["pid"] != os.getpid())


def _is_running(pid: int, born: float | None) -> bool:
    """Whether the process with this id still runs; the id of an ended one may belong to a later process."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return born is None or abs(process.create_time() - born) < _SAME_START
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True

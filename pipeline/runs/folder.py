"""The folder of a run: named by its configuration, locked while it is computed, marked when it ends.

`outputs/<name>/<fingerprint>/` holds `config.yaml`, `provenance.json`, `metrics.jsonl`, a Parquet file for
each table such as `records.parquet`, `summary.json` and `DONE` or `FAILED`; `checkpoints/` where an alarm
saved one, `updates/` and `weights.safetensors` where they are kept. While it is computed `progress.json`
tells how far it is, and `state/` holds what it goes on from where it is interrupted (`states.py`).
"""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
import yaml
from filelock import FileLock, Timeout
from torch import Tensor

from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError, NormscopeError
from editors.tensor_files import write_tensors
from pipeline.config.fingerprint import Config, label
from pipeline.config.secrets import masked
from pipeline.config.targets import plugins_of
from pipeline.runs.atomic_files import write, write_json
from pipeline.runs.checkpoint_store import FOLDER, Saved, States
from pipeline.runs.heartbeat import Heartbeat, is_abandoned, read, stays_silent
from pipeline.runs.layout import folder_of, is_done
from pipeline.runs.messages import report
from pipeline.runs.objectives import Value
from pipeline.runs.provenance import attempts, now, provenance
from pipeline.runs.signals import was_requeued

log = logging.getLogger(__name__)

ATTEMPT = ("metrics.jsonl", "*.parquet", "summary.json", "uploaded.json", "weights.safetensors", "FAILED")
"""Files that a new attempt replaces, as patterns."""
FOLDERS = ("wandb", "checkpoints", "figures", "adapter", "updates", FOLDER)
"""Folders that go with them."""


class RunBusy(NormscopeError):
    """Another process is computing the same run."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What identifies a run."""

    name: str
    """The experiment's name."""
    fingerprint: str
    folder: Path


class RunDir:
    """One run's folder, as a context: it is locked inside, and left marked `DONE` or `FAILED`.

        with RunDir(root=Path("outputs"), config=config) as run:
            if run.done:
                return
            run.append({"edits": 0, "norm/frobenius_ratio/edited": 1.0})
            run.finish(objective=0.93)

    Entering starts a fresh attempt unless the run is done: what an unfinished one left is removed, but for
    what belongs to its last complete checkpoint.
    """

    def __init__(self, *, root: Path, config: Config) -> None:
        self.config = config
        folder = folder_of(root, config)
        self.info = RunInfo(name=folder.parent.name, fingerprint=folder.name, folder=folder)
        self._lock = FileLock(self.info.folder / ".lock", timeout=0)
        self._heartbeat = Heartbeat(self.info.folder)
        self._states = States(self.info.folder, config)
        self._started = self._before = 0.0
        self._last: dict[str, float] = {}
        self._tables: dict[str, list[Mapping[str, object]]] = {}
        self.saved: Saved | None = None

    @property
    def folder(self) -> Path:
        """Where everything of this run lies."""
        return self.info.folder

    @property
    def done(self) -> bool:
        """Whether this run was computed to its end, now or earlier."""
        return is_done(self.folder)

    def __enter__(self) -> Self:
        """Lock the folder.

        Raises:
            RunBusy: where another process computes the run.
            ConfigError: where it cannot be written, or its state was saved by other code.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            if self.config.get("resume") == "never" and not was_requeued():
                self._forget()
            if not self.done:
                self._heartbeat.__enter__()
                self._begin()
        except BaseException as error:
            self._heartbeat.__exit__()
            self._lock.release()
            if isinstance(error, OSError):
                raise _unwritable(self.folder, error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the records of a run that broke, mark it as failed, release the lock.

        One that was asked to leave is not marked: it is interrupted, and can go on.
        """
        try:
            self._heartbeat.__exit__()
            if isinstance(error, Exception) and not self.done and not self._heartbeat.is_lost:
                self._fail(error)
        finally:
            self._lock.release()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row to `metrics.jsonl`; it is on the disk when this returns, and otherwise not at all.

        A diverged number is written as `NaN` or `Infinity`, which Python reads but strict JSON forbids.

        Raises:
            RunBusy: where another process has taken the run over.
        """
        self._check_ours()
        line = f"{json.dumps(dict(row), default=float)}\n".encode()
        with (self.folder / "metrics.jsonl").open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
                os.fsync(file.fileno())
            except OSError:
                os.truncate(file.fileno(), before)
                raise
        self._last |= {key: float(value) for key, value in row.items() if "/" in key}

    def report_progress(self, parts: Sequence[Mapping[str, object]]) -> None:
        """Let others know how far the run is: name, unit, total and count of each part."""
        self._heartbeat.report_progress(parts)

    def record(self, table: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Keep rows, say one per fact, for `<table>.parquet`; later rows follow earlier ones."""
        self._tables.setdefault(table, []).extend(rows)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one mapping per line."""
        return RunFolder(self.folder).rows()[0]

    @property
    def tables(self) -> Mapping[str, Sequence[Mapping[str, object]]]:
        """What was recorded so far, by table; also by the attempt that this one goes on from."""
        return self._tables

    def save(self, checkpoint: Path, state: Mapping[str, object], pieces: Sequence[Path] = ()) -> None:
        """Complete a state inside the folder, so that an interrupted run goes on from there."""
        self._check_ours()
        tables = checkpoint / "tables"
        tables.mkdir(exist_ok=True)
        self._write_tables(tables)
        told = {"last": self._last, "seconds": self._seconds, "state": state}
        self._states.complete(checkpoint, self.folder / "metrics.jsonl", told, pieces)

    def checkpoint(self, name: str, weights: Mapping[str, Tensor]) -> Path:
        """Save matrices by site as `checkpoints/<name>.safetensors`, complete or not at all."""
        path = self.folder / "checkpoints" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write_tensors(path, weights)
        return path

    def finish(self, *, objective: Value, **more: object) -> None:
        """Write the tables and `summary.json`, which gets `more` as well, then mark the run as done."""
        self._check_ours()
        self._write_tables(self.folder)
        write_json(self.folder / "summary.json", self._summary(objective) | more)
        write(self.folder / "DONE", now() + "\n")
        self._heartbeat.remove()
        self._states.clear()  # nothing is left to go on with

    def _check_ours(self) -> None:
        if not self._heartbeat.check():
            raise RunBusy(f"another process took over {self.folder}: this one was silent for too long")

    def _forget(self) -> None:
        """As if the run had never been computed."""
        (self.folder / "DONE").unlink(missing_ok=True)
        self._states.clear()

    def _acquire(self) -> None:
        """Take the lock, also one of a host that is no more; on this host it goes with its process."""
        try:
            self._lock.acquire()
        except Timeout as error:
            told = read(self.folder)
            if told is None or not is_abandoned(told) or not stays_silent(self.folder, told):
                raise RunBusy(
                    f"the same run is being computed by another process in {self.folder}: nothing to do here"
                ) from error
            log.warning("taking over %s from process %s of %s", self.folder, told["pid"], told["host"])
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.acquire()

    def _begin(self) -> None:
        metrics = self.folder / "metrics.jsonl"
        force = self.config.get("resume") == "force"
        self.saved = self._states.newest(metrics, force=force)
        kept = {"metrics.jsonl", FOLDER, "checkpoints", "adapter", "updates"} if self.saved else set()
        for pattern in ATTEMPT:
            for stale in self.folder.glob(pattern):
                if stale.name not in kept:
                    stale.unlink()
        for folder in FOLDERS:
            if folder not in kept:
                shutil.rmtree(self.folder / folder, ignore_errors=True)
        if self.saved:
            self._resume(self.saved)
        write(
            self.folder / "config.yaml",
            yaml.safe_dump(masked(self.config), sort_keys=False, allow_unicode=True),
        )
        earlier = attempts(self.folder / "provenance.json") if self.saved else []
        origin = provenance(plugins_of(self.config))
        more = {"inputs": self._states.inputs, "earlier": earlier}
        write_json(self.folder / "provenance.json", origin | more)
        self._started = time.perf_counter()

    def _resume(self, saved: Saved) -> None:
        """Forget what was measured after the state."""
        with (self.folder / "metrics.jsonl").open("r+b") as file:
            file.truncate(saved.size)
        self._last, self._before = dict(saved.last), saved.seconds
        for path in (saved.checkpoint / "tables").glob("*.parquet"):
            rows = pd.read_parquet(path).to_dict("records")
            self._tables[path.stem] = [{str(key): value for key, value in row.items()} for row in rows]
        log.info("going on from %s", saved.checkpoint)

    @property
    def _seconds(self) -> float:
        """That the run has taken, in all attempts whose numbers it holds."""
        return self._before + time.perf_counter() - self._started

    def _summary(self, objective: Value) -> dict[str, object]:
        return {
            "run": self.info.fingerprint,
            "name": self.info.name,
            **{group: label(self.config, group) for group in ("editor", "model", "intervention", "data")},
            "seed": self.config.get("seed"),
            "batch_size": self.config.get("batch_size"),
            "objective": objective,
            "seconds": round(self._seconds, 3),
            "metrics": self._last,
        }

    def _write_tables(self, folder: Path) -> None:
        """Write what was recorded, each table complete or not at all."""
        for name, rows in self._tables.items():
            path = folder / f"{name}.parquet"
            part = path.with_suffix(".part")
            pd.DataFrame(rows).to_parquet(part, index=False)
            part.replace(path)

    def _fail(self, error: Exception) -> None:
        """Tell of the error and keep what was recorded, as far as the disk allows."""
        for keep in (
            lambda: write(self.folder / "FAILED", report(error)),
            lambda: self._write_tables(self.folder),
        ):
            try:
                keep()
            except OSError as second:
                log.error("%s: %s", second.strerror or second, second.filename or self.folder)
        self._heartbeat.remove()


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(
        f"the run folder {folder} cannot be written ({reason}): free it or choose another folder"
    )

"""The folder of a run: named by its configuration, locked while it is computed, marked when it ends.

`outputs/<name>/<label>-<fingerprint>/` holds `config.yaml`, `provenance.json`, `metrics.jsonl`, one Parquet
file per table such as `records.parquet`, `summary.json` and `DONE` or `FAILED`; `checkpoints/` if an alarm
saved one, `updates/` and `weights.safetensors` if the run keeps them. While the run is computed,
`progress.json` holds its progress and `state/` the checkpoints from which an interrupted run continues
(`checkpoint_store.py`).
"""

import logging
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

from analysis.results.run_folder import CONFIG, DONE, FAILED, METRICS, PROVENANCE, SUMMARY, RunFolder
from analysis.results.seal import Seal, written
from editors.disk import remove_parts, replacing, sync
from editors.errors import ConfigError, DataError, NormscopeError
from editors.phases import Phase
from editors.tensor_files import write_tensors
from pipeline.config.allowed_classes import plugins_of
from pipeline.config.fingerprint import Config, fingerprint, label
from pipeline.config.secrets import masked
from pipeline.runs.atomic_files import write, write_json
from pipeline.runs.checkpoint_store import FOLDER, Saved, States
from pipeline.runs.heartbeat import Heartbeat, is_abandoned, read_progress, stays_silent
from pipeline.runs.layout import folder_of, place, point_latest
from pipeline.runs.messages import error_report
from pipeline.runs.metrics_file import MetricsFile
from pipeline.runs.objectives import Value
from pipeline.runs.provenance import earlier_attempts, model_origin, now, provenance
from pipeline.runs.signals import was_requeued

log = logging.getLogger(__name__)

RESULTS = (METRICS, "*.parquet", SUMMARY, "uploaded.json", "weights.safetensors", FAILED)
"""Patterns of the files that a new attempt replaces."""
RETAINED = ("checkpoints", "adapter", "updates")
"""Folders of results that a resumed run continues."""
RESULT_FOLDERS = ("wandb", "figures", *RETAINED, FOLDER)
"""Folders that a new attempt replaces."""


class RunBusy(NormscopeError):
    """Another process is computing the same run."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Name, fingerprint and folder of a run."""

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

    Entering starts a new attempt unless the run is done: files of an unfinished attempt are removed, except
    those that belong to its last complete checkpoint.
    """

    def __init__(self, *, root: Path, config: Config) -> None:
        self.config = config
        folder = folder_of(root, config)
        self.info = RunInfo(name=folder.parent.name, fingerprint=fingerprint(config), folder=folder)
        self._lock = FileLock(self.info.folder / ".lock", timeout=0)
        self._heartbeat = Heartbeat(self.info.folder)
        self._states = States(self.info.folder, config)
        self._started = self._before = 0.0
        self._place: tuple[int, int] | None = None
        """What tells the folder from another one of this name."""
        self._metrics = MetricsFile(folder / METRICS)
        self._tables: dict[str, list[Mapping[str, object]]] = {}
        self.saved: Saved | None = None

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.info.folder

    @property
    def done(self) -> bool:
        """Whether this run was computed to its end, in this process or earlier."""
        return RunFolder(self.folder).is_done

    def __enter__(self) -> Self:
        """Lock the folder.

        Raises:
            RunBusy: if another process computes the run.
            ConfigError: if the folder cannot be written, or its checkpoint was saved by other code.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
            self._place = place(self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            if self.config.get("resume") == "never" and not was_requeued():
                self._forget()
            if not self.done:
                for folder in (self.folder, *(self.folder / name for name in RETAINED)):
                    remove_parts(folder)  # of an attempt that was killed
                self._heartbeat.__enter__()
                self._begin()
                point_latest(self.folder)
        except BaseException as error:
            self._heartbeat.__exit__()
            if isinstance(error, NormscopeError):  # `status` says why the same command does not continue it
                self._fail(error)
            self._lock.release()
            if isinstance(error, OSError):
                raise _unwritable(self.folder, error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Save the records of a run that raised an error, mark it as failed, release the lock.

        A run that was interrupted by a signal is not marked: it can continue.
        """
        try:
            self._heartbeat.__exit__()
            is_here = place(self.folder) == self._place and not self._heartbeat.is_lost
            if isinstance(error, Exception) and is_here and not self.done:
                self._fail(error)
        finally:
            self._lock.release()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row to `metrics.jsonl`; on return the whole row is on the disk, on an error none of it.

        Raises:
            RunBusy: if another process has taken the run over.
            DataError: if the folder was moved or deleted, or something else has changed the file.
        """
        self._check_ownership()
        self._metrics.append(row)

    def report_progress(self, parts: Sequence[Mapping[str, object]]) -> None:
        """Write the progress of the run for other processes: name, unit, total and count of each part."""
        self._heartbeat.report_progress(parts)

    def report_phase(self, phase: Phase) -> None:
        """Write the present phase for other processes."""
        self._heartbeat.report_phase(phase)

    def record(self, table: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Append rows, such as one per fact, to the table that becomes `<table>.parquet`."""
        self._tables.setdefault(table, []).extend(rows)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one mapping per line."""
        return RunFolder(self.folder).rows()[0]

    @property
    def tables(self) -> Mapping[str, Sequence[Mapping[str, object]]]:
        """Recorded rows by table, including those of the attempt that this one continues."""
        return self._tables

    def save(self, checkpoint: Path, state: Mapping[str, object], pieces: Sequence[Path] = ()) -> None:
        """Complete a checkpoint inside the folder, from which the run continues if it is interrupted."""
        self._check_ownership()
        tables = checkpoint / "tables"
        tables.mkdir(exist_ok=True)
        self._write_tables(tables)
        content = {"last": self._metrics.last, "seconds": self._seconds, "state": state}
        kept = [
            path for name in RETAINED for path in sorted((self.folder / name).rglob("*")) if path.is_file()
        ]
        self._states.complete(checkpoint, self.folder / METRICS, content, [*pieces, *kept])

    def checkpoint(self, name: str, weights: Mapping[str, Tensor]) -> Path:
        """Save matrices by site atomically as `checkpoints/<name>.safetensors`, and return the path."""
        path = self.folder / "checkpoints" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write_tensors(path, weights)
        return path

    def finish(self, *, objective: Value, **more: object) -> None:
        """Write the tables and `summary.json`, with the entries of `more`, then mark the run as done."""
        self._check_ownership()
        self._write_tables(self.folder)
        write_json(self.folder / SUMMARY, self._summary(objective) | more)
        names = written(self.folder)
        for path in dict.fromkeys(path for name in names for path in _with_folders(self.folder, name)):
            sync(path)
        write(self.folder / DONE, Seal.of(self.folder).text(now()))
        self._heartbeat.remove()
        self._states.clear()  # a finished run needs no checkpoints

    def _check_ownership(self) -> None:
        if place(self.folder) != self._place:
            raise DataError(
                f"{self.folder} was moved or deleted while the run was computed: move it back and give the "
                "same command again, which resumes from the last checkpoint"
            )
        if not self._heartbeat.check():
            raise RunBusy(f"another process took over {self.folder}: this one was silent for too long")

    def _forget(self) -> None:
        """Remove the mark and the checkpoints of an earlier computation."""
        (self.folder / DONE).unlink(missing_ok=True)
        self._states.clear()

    def _acquire(self) -> None:
        """Take the lock, even one of a host that no longer exists; on this host it ends with its process."""
        try:
            self._lock.acquire()
        except Timeout as error:
            progress = read_progress(self.folder)
            if progress is None or not is_abandoned(progress) or not stays_silent(self.folder, progress):
                raise RunBusy(
                    f"the same run is being computed by another process in {self.folder}: nothing to do here"
                ) from error
            log.warning("taking over %s from %s of %s", self.folder, progress["pid"], progress["host"])
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.acquire()

    def _begin(self) -> None:
        """Prepare the folder for a new attempt, from the newest checkpoint if there is one."""
        metrics = self.folder / METRICS
        force = self.config.get("resume") == "force"
        self.saved = self._states.newest(metrics, force=force)
        retained = {METRICS, FOLDER, *RETAINED} if self.saved else set()
        for pattern in RESULTS:
            for stale in self.folder.glob(pattern):
                if stale.name not in retained:
                    stale.unlink()
        for folder in RESULT_FOLDERS:
            if folder not in retained:
                shutil.rmtree(self.folder / folder, ignore_errors=True)
        if self.saved:
            self._resume(self.saved)
        text = yaml.safe_dump(masked(self.config), sort_keys=False, allow_unicode=True)
        write(self.folder / CONFIG, text)
        earlier = earlier_attempts(self.folder / PROVENANCE) if self.saved else []
        origin = provenance(plugins_of(self.config))
        origin["model"] = model_origin(self.config)
        more = {"inputs": self._states.inputs, "earlier": earlier}
        write_json(self.folder / PROVENANCE, origin | more)
        self._started = time.perf_counter()

    def _resume(self, saved: Saved) -> None:
        """Restore rows, tables and the files beside them as they were at the checkpoint."""
        listed = saved.paths
        for path in [path for name in RETAINED for path in (self.folder / name).rglob("*")]:
            if path.is_file() and path.resolve() not in listed:
                path.unlink()
        self._metrics.resume(saved.size, saved.last)
        self._before = saved.seconds
        for path in (saved.checkpoint / "tables").glob("*.parquet"):
            rows = pd.read_parquet(path).to_dict("records")
            self._tables[path.stem] = [{str(key): value for key, value in row.items()} for row in rows]
        log.info("resuming from %s", saved.checkpoint)

    @property
    def _seconds(self) -> float:
        """Seconds of computation, including those of the attempts that this one continues."""
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
            "metrics": self._metrics.last,
        }

    def _write_tables(self, folder: Path) -> None:
        """Write the recorded tables, each of them atomically."""
        for name, rows in self._tables.items():
            with replacing(folder / f"{name}.parquet") as part:
                pd.DataFrame(rows).to_parquet(part, index=False)

    def _fail(self, error: Exception) -> None:
        """Write the error and the recorded tables, as far as the disk allows."""
        for save in (
            lambda: write(self.folder / FAILED, error_report(error)),
            lambda: self._write_tables(self.folder),
        ):
            try:
                save()
            except OSError as second:
                log.error("%s: %s", second.strerror or second, second.filename or self.folder)
        self._heartbeat.remove()


def _with_folders(root: Path, name: str) -> list[Path]:
    """A file inside a folder, and every folder on the way to it."""
    path = root / name
    return [path, *(folder for folder in path.parents if folder.is_relative_to(root))]


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(
        f"the run folder {folder} cannot be written ({reason}): free it or choose another folder"
    )

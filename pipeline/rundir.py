"""The folder of a run: named by its configuration, locked while it is computed, marked when it ends.

`outputs/<name>/<fingerprint>/` holds `config.yaml`, `provenance.json`, `metrics.jsonl`, a Parquet file for
each table such as `records.parquet`, `summary.json` and `DONE` or `FAILED`; `checkpoints/` where an alarm
saved one.
"""

import hashlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd
import yaml
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor

from editors.errors import ConfigError, DataError, NormscopeError
from pipeline.provenance import now, provenance

Config = Mapping[str, object]
"""A resolved configuration: plain dicts, lists, strings and numbers."""

IRRELEVANT = frozenset({"tracker", "launcher", "resume", "name", "experiment", "hydra"})
"""Top-level keys that say where and how a run is computed and watched, not what comes out."""
ATTEMPT = ("provenance.json", "metrics.jsonl", "*.parquet", "summary.json", "FAILED")
"""Files that a new attempt replaces, as patterns."""
FOLDERS = ("wandb", "checkpoints", "figures")
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


def fingerprint(config: Config) -> str:
    """Ten hex digits that are equal for configurations that give the same numbers.

    The beginning of SHA-256 over the canonical JSON: keys sorted, whole floats as integers, without the keys
    of `IRRELEVANT`.
    """
    relevant = {key: _canonical(value) for key, value in config.items() if key not in IRRELEVANT}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:10]


def _canonical(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def label(config: Config, group: str) -> str:
    """The `name` inside a group of the configuration, empty where there is none."""
    node = config.get(group)
    return str(node.get("name", "")) if isinstance(node, Mapping) else ""


class RunDir:
    """One run's folder, as a context: it is locked inside, and left marked `DONE` or `FAILED`.

        with RunDir(root=Path("outputs"), config=config) as run:
            if run.done:
                return run.objective
            run.append({"step": 0, "edits": 0, "norm/frobenius_ratio/edited": 1.0})
            run.finish(objective=0.93)

    Entering starts a fresh attempt unless the run is done: what an unfinished one left is removed.
    """

    def __init__(self, *, root: Path, config: Config) -> None:
        name = str(config.get("name") or "")
        if not name.isprintable() or not name.strip(". ") or {"/", "\\"} & set(name):
            raise ConfigError(f"name={name!r} cannot name a folder: use letters, digits, '-' and '_'")
        identity = fingerprint(config)
        self.config = config
        self.info = RunInfo(name=name, fingerprint=identity, folder=root / name / identity)
        self._lock = FileLock(self.info.folder / ".lock", timeout=0)
        self._started = 0.0
        self._last: dict[str, float] = {}
        self._tables: dict[str, list[Mapping[str, object]]] = {}

    @property
    def folder(self) -> Path:
        """Where everything of this run lies."""
        return self.info.folder

    @property
    def done(self) -> bool:
        """Whether this run was computed to its end, now or earlier."""
        return (self.folder / "DONE").is_file()

    @property
    def objective(self) -> float | None:
        """The stored objective of a finished run; raises DataError where its summary cannot be read."""
        try:
            return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))["objective"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.folder} is marked DONE but its summary.json cannot be read: "
                "delete the folder to compute the run again"
            ) from error

    def __enter__(self) -> Self:
        """Lock the folder; raises RunBusy where it is locked, ConfigError where it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if not self.done:
                self._begin()
        except Timeout as error:
            raise RunBusy(
                f"the same run is being computed by another process in {self.folder}: nothing to do here"
            ) from error
        except OSError as error:
            self._lock.release()
            reason = error.strerror or str(error)
            raise ConfigError(
                f"the run folder {self.folder} cannot be written ({reason}): free it or choose another folder"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the records of a run that broke, mark it as failed, release the lock."""
        try:
            if error is not None and not self.done:
                write(self.folder / "FAILED", _report(error))
                self._write_tables()
        finally:
            self._lock.release()

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row to `metrics.jsonl`; it is on the disk when this returns.

        A diverged number is written as `NaN` or `Infinity`, which Python reads but strict JSON forbids.
        """
        self._last |= {key: float(value) for key, value in row.items() if key != "step"}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row), default=float) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def record(self, table: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Keep rows, say one per fact, for `<table>.parquet`; later rows follow earlier ones."""
        self._tables.setdefault(table, []).extend(rows)

    def checkpoint(self, edits: int, weights: Mapping[str, Tensor]) -> Path:
        """Save matrices by site as `checkpoints/edits-<edits>.safetensors`, complete or not at all."""
        path = self.folder / "checkpoints" / f"edits-{edits:06d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        save_file({site: matrix.contiguous().cpu() for site, matrix in weights.items()}, part)
        part.replace(path)
        return path

    def finish(self, *, objective: float | None, **more: object) -> None:
        """Write the tables and `summary.json`, which gets `more` as well, then mark the run as done."""
        self._write_tables()
        write_json(self.folder / "summary.json", self._summary(objective) | more)
        write(self.folder / "DONE", now() + "\n")

    def discard(self) -> None:
        """Forget that this run was computed, so that entering starts it anew."""
        (self.folder / "DONE").unlink(missing_ok=True)

    def _begin(self) -> None:
        for pattern in ATTEMPT:
            for stale in self.folder.glob(pattern):
                stale.unlink()
        for folder in FOLDERS:
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        write(
            self.folder / "config.yaml",
            yaml.safe_dump(dict(self.config), sort_keys=False, allow_unicode=True),
        )
        write_json(self.folder / "provenance.json", provenance())
        self._started = time.perf_counter()

    def _summary(self, objective: float | None) -> dict[str, object]:
        metrics = dict(self._last)
        return {
            "run": self.info.fingerprint,
            "name": self.info.name,
            **{group: label(self.config, group) for group in ("editor", "model", "intervention", "data")},
            "seed": self.config.get("seed"),
            "edits": int(metrics.pop("edits", 0)),
            "batch_size": self.config.get("batch_size"),
            "objective": objective,
            "seconds": round(time.perf_counter() - self._started, 3),
            "metrics": metrics,
        }

    def _write_tables(self) -> None:
        """Write what was recorded, each table complete or not at all."""
        for name, rows in self._tables.items():
            path = self.folder / f"{name}.parquet"
            part = path.with_suffix(".part")
            pd.DataFrame(rows).to_parquet(part, index=False)
            part.replace(path)


def write(path: Path, text: str) -> None:
    """Write a file so that a reader sees either the old content or all of the new one."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON file so that a reader sees either the old content or all of the new one."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _report(error: BaseException) -> str:
    """One sentence, then the traceback."""
    message = "".join(str(error).strip().splitlines()[:1])
    if not isinstance(error, NormscopeError):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{message}\n\n{''.join(traceback.format_exception(error))}"

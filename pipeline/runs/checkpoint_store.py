"""Checkpoints of a run, from which an interrupted one resumes bit for bit.

A checkpoint is a folder `state/<part>/checkpoint-<count>/`: weights and everything else that the part needs,
`tables/`, and, written last, `run.json` with the progress of the run and the checksum of every file. Data
that only grow, such as the keys that an editor remembers, are beside it in pieces, to which later checkpoints
refer. A folder without `run.json` is incomplete; one whose files have changed is reported and skipped.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from analysis.results.run_files import Number, first_problem
from analysis.results.run_folder import COMPLETE, STATES
from editors.disk import checksum, checksums, sync
from editors.errors import ConfigError, DataError
from pipeline.config.allowed_classes import plugins_of
from pipeline.config.fingerprint import Config, fingerprint
from pipeline.runs.atomic_files import write
from pipeline.runs.input_digests import check_inputs, input_digests
from pipeline.runs.provenance import code_versions, plugin_digests

log = logging.getLogger(__name__)

FOLDER = STATES
PREFIX = "checkpoint-"
KEPT = 2
"""Checkpoints per part on the disk; the older one is used if the newer one is broken."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class Saved:
    """A complete checkpoint of an interrupted run; all but the first field are in its `run.json`.

    Raises:
        ValidationError: for a field of another type, which is not converted.
    """

    checkpoint: Path
    run: str
    """The fingerprint of its run."""
    size: Annotated[int, Field(ge=0)]
    """Size of `metrics.jsonl` when it was saved, in bytes."""
    rows: str
    """Checksum of those bytes."""
    seconds: Number
    """Time that the run had taken when it was saved."""
    last: Mapping[str, float]
    """The last value of every metric when it was saved."""
    state: Mapping[str, Any]
    """The state passed to `States.complete`."""
    code: Mapping[str, str]
    """Versions of the code that computed it."""
    inputs: Mapping[str, str]
    """Digests of the files that the run read."""
    files: Mapping[str, str]
    """Checksums, by path relative to the part's folder."""

    @property
    def paths(self) -> frozenset[Path]:
        """The files of the run that it needs, resolved."""
        return frozenset(_absolute(name, self.checkpoint.parent).resolve() for name in self.files)

    @property
    def part(self) -> int:
        """Index of the part of the run in which it was saved."""
        return int(self.checkpoint.parent.name)

    @property
    def count(self) -> int:
        """Count of that part when it was saved."""
        return _count(self.checkpoint)


def new_checkpoint(part: Path, count: int) -> Path:
    """An empty folder for a checkpoint of a part."""
    checkpoint = part / f"{PREFIX}{count}"
    shutil.rmtree(checkpoint, ignore_errors=True)
    checkpoint.mkdir(parents=True)
    return checkpoint


class States:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.run, self.config = folder / FOLDER, fingerprint(config), config
        self._code = {**code_versions(), **plugin_digests(plugins_of(config))}
        self._sums: dict[Path, str] = {}
        """Checksums of pieces, which never change once written."""

    def complete(
        self,
        checkpoint: Path,
        metrics: Path,
        progress: Mapping[str, object],
        pieces: Sequence[Path] = (),
    ) -> None:
        """Complete a checkpoint and remove those before the last two; it is on the disk when this returns.

        `metrics` is the file of the rows so far, `progress` holds `last`, `seconds` and `state` of `Saved`,
        and `pieces` are files outside of its folder that it needs too.
        """
        part = checkpoint.parent
        inside = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
        new = [*inside, *(path for path in pieces if path not in self._sums)]
        for path in new:
            sync(path)
        sync(checkpoint)
        sums = checksums(new)
        self._sums |= {path: sums[path] for path in pieces if path in sums}
        listed = {path: self._sums[path] for path in pieces} | {path: sums[path] for path in inside}
        files = {_relative(path, part): value for path, value in listed.items()}
        size = metrics.stat().st_size
        rows = {"size": size, "rows": checksum(metrics, size)}
        origin = {"code": dict(self._code), "inputs": self.inputs, "files": files}
        content = {"run": self.run, **rows, **progress, **origin}
        # no strict JSON: a state may hold NaN, and only this module reads it
        text = json.dumps({**content, "checksum": _checksum_of(content)}, indent=2)
        write(checkpoint / COMPLETE, f"{text}\n")
        sync(part)
        for old in sorted(part.glob(f"{PREFIX}*"), key=_count)[:-KEPT]:
            shutil.rmtree(old)

    def newest(self, metrics: Path, *, force: bool) -> Saved | None:
        """The latest intact checkpoint whose rows are in `metrics`; None if none was completed yet.

        Broken ones that are newer are reported and removed.

        Raises:
            ConfigError: if all are broken, it was saved by other code, unless `force`, or other data were
                read.
            OSError: if files cannot be read; they are kept.
        """
        broken: dict[Path, str] = {}
        for saved in sorted(self._candidates(broken), key=lambda saved: saved.size, reverse=True):
            try:
                self._verify(saved, metrics)
            except (FileNotFoundError, ValueError, DataError) as error:  # ValueError: no name of a file
                broken[saved.checkpoint] = str(error)
                continue
            if not force and saved.code != self._code:
                raise ConfigError(_other_code(saved, self._code))
            check_inputs(self.folder.parent, saved.inputs)
            for folder, reason in broken.items():
                log.warning("the checkpoint %s cannot be used and is removed: %s", folder, reason)
                shutil.rmtree(folder, ignore_errors=True)
            part = saved.checkpoint.parent
            self._sums |= {_absolute(name, part): value for name, value in saved.files.items()}
            return saved
        for folder, reason in broken.items():
            raise ConfigError(
                f"the checkpoint {folder} cannot be used ({reason}), and there is no older one that can: "
                "resume=never computes the run again"
            )
        return None

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of the files that the run reads, computed at the first access."""
        return input_digests(self.config)

    def clear(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _candidates(self, broken: dict[Path, str]) -> Iterator[Saved]:
        """The complete checkpoints; `broken` gets those that cannot be read, and why."""
        for folder in sorted(self.folder.glob(f"*/{PREFIX}*")):
            if not (folder / COMPLETE).is_file():
                shutil.rmtree(folder)  # the run ended while it was being written
                continue
            try:
                fields = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
                own = fields.pop("checksum", None)
                saved = Saved(checkpoint=folder, **fields)
                if saved.run != self.run:
                    raise DataError(f"it belongs to the run {saved.run}")
                if own != _checksum_of(fields):
                    raise DataError(f"{COMPLETE} has changed since it was written")
            except ValidationError as error:
                broken[folder] = f"{COMPLETE} cannot be used: {first_problem(error)}"
            except (ValueError, TypeError, AttributeError, RecursionError, DataError) as error:
                broken[folder] = str(error)
            else:
                yield saved

    def _verify(self, saved: Saved, metrics: Path) -> None:
        if metrics.stat().st_size < saved.size:
            raise DataError("metrics.jsonl has lost rows that belong to it")
        if checksum(metrics, saved.size) != saved.rows:
            raise DataError("the rows of metrics.jsonl have changed since it was saved")
        paths = {name: _absolute(name, saved.checkpoint.parent) for name in saved.files}
        sums = checksums(paths.values())
        for name, value in saved.files.items():
            if sums[paths[name]] != value:
                raise DataError(f"{name} has changed since it was written")


def _count(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def _checksum_of(content: Mapping[str, object]) -> str:
    """SHA-256 of everything else in `run.json`, in hex digits."""
    # read back, because JSON turns the keys of mappings into texts
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _relative(path: Path, part: Path) -> str:
    """The path from the folder of the part, to files that earlier parts share too."""
    return Path(os.path.relpath(path, part)).as_posix()


def _absolute(name: str, part: Path) -> Path:
    """The inverse of `_relative`."""
    return Path(os.path.normpath(part / name))


def _other_code(saved: Saved, now: Mapping[str, str]) -> str:
    changed = [name for name in now if now[name] != saved.code.get(name)]
    versions = ", ".join(f"{name} {saved.code.get(name, '?')} -> {now[name]}" for name in changed)
    return (
        f"the checkpoint {saved.checkpoint} was saved by other code ({versions}): "
        "resume=force continues from it with this code, resume=never computes the run again"
    )

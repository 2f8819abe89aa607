"""Saved states of a run: what an interrupted one goes on from, bit for bit.

A state is a folder `state/<part>/checkpoint-<count>/`: weights and whatever the part needs, `tables/`, and,
written last, `run.json` with how far the run is and the checksum of every file. What grows, such as the keys
that an editor remembers, lies beside it in pieces that later states refer to. A folder without `run.json` was
never completed; one whose files are not those that were written is told of and passed over.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.results.run_folder import COMPLETE, STATES
from editors.errors import ConfigError, DataError
from pipeline.config.fingerprint import Config
from pipeline.runs.atomic_files import checksum, settle, settle_folder, write_json
from pipeline.runs.input_digests import check_inputs, inputs
from pipeline.runs.provenance import code

log = logging.getLogger(__name__)

FOLDER = STATES
PREFIX = "checkpoint-"
KEPT = 2
"""States of a part on the disk; the older one counts where the newer one is broken."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A complete state of an interrupted run."""

    checkpoint: Path
    run: str
    """The fingerprint of the run that it is of."""
    size: int
    """Bytes that `metrics.jsonl` had then."""
    rows: str
    """Their checksum."""
    seconds: float
    """That the run had taken then."""
    last: Mapping[str, float]
    """The latest number of every metric then."""
    state: Mapping[str, Any]
    """What `States.complete` was given."""
    code: Mapping[str, str]
    """What computed it."""
    inputs: Mapping[str, str]
    """Digests of the files that the run had read."""
    files: Mapping[str, str]
    """Checksums, by path relative to the part's folder."""

    @property
    def part(self) -> int:
        """The part of the run that it was taken in."""
        return int(self.checkpoint.parent.name)

    @property
    def count(self) -> int:
        """How far that part was."""
        return _count(self.checkpoint)


def new_checkpoint(part: Path, count: int) -> Path:
    """An empty folder for a state of a part."""
    checkpoint = part / f"{PREFIX}{count}"
    shutil.rmtree(checkpoint, ignore_errors=True)
    checkpoint.mkdir(parents=True)
    return checkpoint


class States:
    """The states of one run."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.run, self.config = folder / FOLDER, folder.name, config
        self._code = code()
        self._sums: dict[Path, str] = {}
        """Checksums of pieces, which never change once they are written."""

    def complete(
        self,
        checkpoint: Path,
        metrics: Path,
        told: Mapping[str, object],
        pieces: Sequence[Path] = (),
    ) -> None:
        """Complete a state, all of which is on the disk when this returns, and remove those before the last.

        `metrics` are the rows so far; `told` is what else `Saved` tells: last, seconds and state; `pieces`
        are files outside of its folder that it needs too.
        """
        part = checkpoint.parent
        inside = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
        for path in (path for path in pieces if path not in self._sums):
            settle(path)
            self._sums[path] = checksum(path)
        sums = {path: self._sums[path] for path in pieces}
        for path in inside:
            settle(path)
            sums[path] = checksum(path)
        settle_folder(checkpoint)
        files = {path.relative_to(part).as_posix(): value for path, value in sums.items()}
        size = metrics.stat().st_size
        rows = {"size": size, "rows": checksum(metrics, size)}
        origin = {"code": dict(self._code), "inputs": self.inputs, "files": files}
        write_json(checkpoint / COMPLETE, {"run": self.run, **rows, **told, **origin})
        settle_folder(part)
        for old in sorted(part.glob(f"{PREFIX}*"), key=_count)[:-KEPT]:
            shutil.rmtree(old)

    def newest(self, metrics: Path, *, force: bool) -> Saved | None:
        """The latest state that is whole, its rows in `metrics` included; broken ones are removed.

        Raises:
            ConfigError: where it was saved by other code, unless `force`, or other data were read.
            OSError: where files cannot be read; they stay.
        """
        candidates = sorted(self._candidates(), key=lambda saved: saved.size, reverse=True)
        for saved in candidates:
            try:
                self._verify(saved, metrics)
            except (FileNotFoundError, DataError) as error:
                _pass_over(saved.checkpoint, error)
                continue
            if not force and saved.code != self._code:
                raise ConfigError(_other_code(saved, self._code))
            check_inputs(self.folder.parent, saved.inputs)
            part = saved.checkpoint.parent
            self._sums |= {part / name: value for name, value in saved.files.items()}
            return saved
        return None

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of the files that the run reads, as they were when this was asked first."""
        return inputs(self.config)

    def clear(self) -> None:
        """Forget all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _candidates(self) -> Iterator[Saved]:
        for folder in sorted(self.folder.glob(f"*/{PREFIX}*")):
            if not (folder / COMPLETE).is_file():
                shutil.rmtree(folder)  # the run ended while it was being written
                continue
            try:
                told = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
                saved = Saved(checkpoint=folder, **told)
                if saved.run != self.run:
                    raise DataError(f"it belongs to the run {saved.run}")
            except (ValueError, TypeError, DataError) as error:
                _pass_over(folder, error)
            else:
                yield saved

    def _verify(self, saved: Saved, metrics: Path) -> None:
        if metrics.stat().st_size < saved.size:
            raise DataError("metrics.jsonl has lost rows that it rests on")
        if checksum(metrics, saved.size) != saved.rows:
            raise DataError("the rows of metrics.jsonl are not those that it rests on")
        for name, value in saved.files.items():
            if checksum(saved.checkpoint.parent / name) != value:
                raise DataError(f"{name} is not what was written")


def _count(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def _pass_over(folder: Path, error: Exception) -> None:
    log.warning("the state %s cannot be used and is removed: %s", folder, error)
    shutil.rmtree(folder, ignore_errors=True)


def _other_code(saved: Saved, now: Mapping[str, str]) -> str:
    changed = [name for name in now if now[name] != saved.code.get(name)]
    told = ", ".join(f"{name} {saved.code.get(name, '?')} -> {now[name]}" for name in changed)
    return (
        f"the state {saved.checkpoint} was saved by other code ({told}): "
        "resume=force goes on from it with this code, resume=never computes the run anew"
    )

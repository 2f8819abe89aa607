"""Keeps every update of a run in its folder, so that it can be applied again (`intervention=replay`).

Pieces are written with every saved state, before it is complete, and whenever much has gathered; those that
follow the state which an interrupted run goes on from are dropped.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError
from editors.update_files import packed, span
from editors.updates import Delta, WeightUpdate
from pipeline.runs.atomic_files import settle, settle_folder

log = logging.getLogger(__name__)

FOLDER = "updates"
"""In the folder of a run."""
_EDITS, _BYTES = 100, 1 << 28
"""What gathers in memory at the most, and one batch more."""


class Updates:
    """The updates of one run: `add` after every batch, `flush` before a state is completed and at the end.

    It goes on after the first `made` edits; with `keep` false it does nothing.
    """

    def __init__(self, run: Path, made: int, *, keep: bool, held_out: bool) -> None:
        self.folder, self.keep, self.held_out = run / FOLDER, keep, held_out
        self._written = self._made = made
        self._batches: list[tuple[list[str], WeightUpdate]] = []
        self._bytes = 0
        if keep:
            self._go_on()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)  # an earlier attempt's, which end where it ended

    def add(self, facts: Sequence[Fact], update: WeightUpdate, total: int) -> None:
        """Take up the update of a batch; `total` edits there will be."""
        if not self.keep:
            return
        if not self._made:
            size = sum(part.nbytes for delta in update.values() for part in _parts(delta))
            log.info("updates: about %.2g GiB will be kept", size * total / len(facts) / 2**30)
        update = {site: delta.to(torch.device("cpu")) for site, delta in update.items()}
        self._batches.append(([fact.id for fact in facts], update))
        self._made += len(facts)
        self._bytes += sum(part.nbytes for delta in update.values() for part in _parts(delta))
        if self._made - self._written >= _EDITS or self._bytes >= _BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered; it is on the disk when this returns."""
        if not self._batches:
            return
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{self._written:08d}-{self._made:08d}.safetensors"
        part = path.with_suffix(".part")
        tensors, told = packed(self._batches, held_out=self.held_out)
        save_file(tensors, part, metadata=told)
        settle(part)
        part.replace(path)
        settle_folder(self.folder)
        self._written, self._bytes, self._batches = self._made, 0, []

    def _go_on(self) -> None:
        """Drop what was written after the state that the run goes on from."""
        for part in self.folder.glob("*.part"):
            part.unlink()
        end = 0
        for path in sorted(self.folder.glob("*-*.safetensors")):
            if span(path)[0] >= self._made:
                path.unlink()
            else:
                end = span(path)[1]
        if end != self._made:
            raise ConfigError(
                f"intervention.keep_updates=true, but {self.folder} holds the updates of {end} of the "
                f"{self._made} edits that were made already: resume=never computes the run anew"
            )


def _parts(delta: Delta) -> list[Tensor]:
    return [delta.left] if delta.right is None else [delta.left, delta.right]

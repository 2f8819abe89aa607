"""Keeps every update of a run in its folder, so that it can be applied again (`intervention=replay`).

Pieces are written before each checkpoint is completed, and whenever enough updates have accumulated. Pieces
after the checkpoint that an interrupted run resumes from are deleted.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError
from editors.tensor_files import write_tensors
from editors.update_files import packed, span
from editors.updates import Delta, WeightUpdate

log = logging.getLogger(__name__)

FOLDER = "updates"
"""In the folder of a run."""
_EDITS, _BYTES = 100, 1 << 28
"""At most so much accumulates in memory, and one more batch."""


class Updates:
    """The updates of one run: `add` after every batch, `flush` before each checkpoint and at the end.

    It continues after the first `edits` edits; with `keep` false it does nothing.
    """

    def __init__(self, run: Path, edits: int, *, keep: bool, held_out: bool) -> None:
        self.folder, self.keep, self.held_out = run / FOLDER, keep, held_out
        self._written = self._edits = edits
        self._batches: list[tuple[list[str], WeightUpdate]] = []
        self._bytes = 0
        if keep:
            self._resume()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)  # incomplete ones of an earlier attempt

    def add(self, facts: Sequence[Fact], update: WeightUpdate, total: int) -> None:
        """Add the update of a batch; `total` is the number of edits of the whole run."""
        if not self.keep:
            return
        if not self._edits:
            log.info("updates: about %.4g MiB will be kept", _size(update) * total / len(facts) / 2**20)
        update = {site: delta.to(torch.device("cpu")) for site, delta in update.items()}
        self._batches.append(([fact.id for fact in facts], update))
        self._edits += len(facts)
        self._bytes += _size(update)
        if self._edits - self._written >= _EDITS or self._bytes >= _BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the accumulated updates; they are on the disk when this returns."""
        if not self._batches:
            return
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{self._written:08d}-{self._edits:08d}.safetensors"
        write_tensors(path, *packed(self._batches, held_out=self.held_out), durable=True)
        self._written, self._bytes, self._batches = self._edits, 0, []

    def _resume(self) -> None:
        """Delete the pieces after the checkpoint that the run resumes from.

        Raises:
            ConfigError: if updates before it are missing.
        """
        end = 0
        for path in sorted(self.folder.glob("*-*.safetensors")):
            if span(path)[0] >= self._edits:
                path.unlink()
            else:
                end = span(path)[1]
        if end != self._edits:
            raise ConfigError(
                f"intervention.keep_updates=true, but {self.folder} holds the updates of {end} of the "
                f"{self._edits} edits that were made already: resume=never computes the run again"
            )


def _size(update: WeightUpdate) -> int:
    """Bytes of the factors."""
    return sum(part.nbytes for delta in update.values() for part in _parts(delta))


def _parts(delta: Delta) -> list[Tensor]:
    return [delta.left] if delta.right is None else [delta.left, delta.right]

"""The checkpoint of a sequence of edits: the edited matrices, and in pieces the editor's history.

The history of an editor only grows: after 10,000 edits of a layer whose inputs are 14,336 wide its keys are
0.6 GB, and the inverse computed from them is 1.6 GB. Each checkpoint therefore adds a piece with the keys
since the previous one. Loading the pieces in order computes the inverse again, to the same bits.
"""

from collections.abc import Sequence
from pathlib import Path

from editors.base import Editor
from editors.models.model import Model
from editors.tensor_files import read_tensors, write_tensors
from editors.updates import Site
from pipeline.checkpoints.stages import REMEDY
from pipeline.runs.checkpoint_store import Saved, new_checkpoint

_WEIGHTS = "weights.safetensors"
_HISTORY = "history"


class EditCheckpoint:
    """Saves and restores the edits of one part of a run in the folder of its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pieces: list[Path] = []
        """Files of the editor's history, oldest first."""
        self._saved = 0
        """Edits whose history is in the pieces."""

    def remember(self, editor: Editor, edits: int) -> None:
        """Write the editor's history since the last piece; `edits` is the number of edits so far."""
        if edits == self._saved:
            return
        path = self.folder / _HISTORY / f"{self._saved:08d}-{edits:08d}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, editor.state_dict(self._saved))
        self.pieces.append(path)
        self._saved = edits

    def recall(self, editor: Editor, saved: Saved, edits: int) -> None:
        """Give the prepared editor the history of a checkpoint, which was taken after `edits` edits."""
        names = sorted(name for name in saved.files if name.startswith(f"{_HISTORY}/"))
        for path in (saved.checkpoint.parent / name for name in names):
            # copies: bits of products can depend on where in memory a matrix begins
            state = {name: value.clone() for name, value in read_tensors(path, remedy=REMEDY).items()}
            editor.load_state_dict(state)
            self.pieces.append(path)
        self._saved = edits

    def write(self, model: Model, sites: Sequence[Site], edits: int) -> Path:
        """Write the edited matrices into the folder of a new checkpoint, which is not complete yet."""
        checkpoint = new_checkpoint(self.folder, edits)
        matrices = {str(site): matrix for site, matrix in model.snapshot(sites).items()}
        write_tensors(checkpoint / _WEIGHTS, matrices)
        return checkpoint

    def restore(self, model: Model, saved: Saved) -> None:
        """Write the edited matrices of a checkpoint into the model, bit for bit."""
        matrices = read_tensors(saved.checkpoint / _WEIGHTS, remedy=REMEDY)
        model.snapshot(map(Site.parse, matrices))  # creates the master copies that were saved
        model.restore({Site.parse(name): matrix for name, matrix in matrices.items()})

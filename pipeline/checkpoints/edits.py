"""The state of a sequence of edits: the edited matrices, and in pieces what the editor remembers.

What an editor remembers can only grow: after 10,000 edits of a layer whose inputs are 14,336 wide its keys
are 0.6 GB, and the inverse that they are worked into is 1.6. So each state adds a piece with the keys since
the last one, and they are worked in again when the pieces are loaded, in the same order, to the same bits.
"""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from editors.base import Editor
from editors.models.model import Model
from editors.updates import Site
from pipeline.runs.checkpoint_store import Saved, new_checkpoint

_WEIGHTS = "weights.safetensors"
_HISTORY = "history"


class Journal:
    """Saves and restores the edits of one part of a run in its folder of states."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pieces: list[Path] = []
        """Files of what the editor remembers, oldest first."""
        self._remembered = 0

    def remember(self, editor: Editor, edits: int) -> None:
        """Write what the editor has remembered since the last time; `edits` were made in all."""
        if edits == self._remembered:
            return
        path = self.folder / _HISTORY / f"{self._remembered:08d}-{edits:08d}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        state = editor.state_dict(self._remembered)
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, path)
        self.pieces.append(path)
        self._remembered = edits

    def recall(self, editor: Editor, saved: Saved, edits: int) -> None:
        """Give the prepared editor what it remembered when the state was saved, after `edits` edits."""
        names = sorted(name for name in saved.files if name.startswith(f"{_HISTORY}/"))
        for path in (saved.checkpoint.parent / name for name in names):
            # copies: bits of products can hang on where in memory a matrix begins
            editor.load_state_dict({name: value.clone() for name, value in load_file(path).items()})
            self.pieces.append(path)
        self._remembered = edits

    def write(self, model: Model, sites: Sequence[Site], edits: int) -> Path:
        """Write the edited matrices into the folder of a new state, which is not complete yet."""
        checkpoint = new_checkpoint(self.folder, edits)
        matrices = {str(site): matrix.contiguous().cpu() for site, matrix in model.snapshot(sites).items()}
        save_file(matrices, checkpoint / _WEIGHTS)
        return checkpoint

    def restore(self, model: Model, saved: Saved) -> None:
        """Write the edited matrices of a state into the model, bit for bit."""
        matrices = load_file(saved.checkpoint / _WEIGHTS)
        model.snapshot(map(Site.parse, matrices))  # makes the masters that were saved
        model.restore({Site.parse(name): matrix for name, matrix in matrices.items()})

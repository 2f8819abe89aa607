"""What a model answers while noise hides the subject and single clean states are put back.

The runs of causal tracing (Meng et al. 2022, arXiv 2202.05262, section 2). All runs of one fact have the same
tokens: each restored cell with each draw of the noise is a row of a batch, nothing is padded, and a pass has
as many rows as its tokens allow.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.inference.residuals import PARTS, Part
from analysis.inference.scoring import foretold
from editors.data import SLOT, Fact
from editors.errors import DataError
from editors.models.hooks import capture, replace_output
from editors.models.model import Model
from editors.models.partial_forward import PartialForward, record
from editors.models.tokenization import tokenize


@dataclass(frozen=True)
class Prompt:
    """A fact's statement in tokens."""

    ids: tuple[int, ...]
    subject: range
    """Positions of the subject's tokens."""
    answer: int
    """First token of the true object."""


@dataclass(frozen=True)
class Restored:
    """Outputs that get their clean value back: of one kind of module, in some blocks, at some positions."""

    kind: str
    layers: Sequence[int]
    positions: Sequence[int]


def read(model: Model, fact: Fact) -> Prompt:
    """Tokenise the statement, and find subject and answer in it.

    Raises:
        DataError: where these share a token with their neighbours, or the text is too long for the model.
    """
    start = fact.prompt.index(SLOT)
    tokens = tokenize(model.tokenizer, f"{fact.statement} {fact.target_true}")
    end = tokens.first_after(len(fact.statement))
    if end > model.max_tokens:
        raise DataError(
            f"{fact.statement!r} has {end} tokens, but {model.name} reads at most {model.max_tokens}: "
            f"leave its fact out of the data"
        )
    subject = tokens.within(start, start + len(fact.subject))
    return Prompt(tokens.ids[:end], subject, tokens.ids[end])


class CorruptedRuns:
    """The runs of one fact: a clean one and corrupted ones, then any number of these with cells restored.

    The noise is added to the embeddings of the subject's tokens; every restored cell meets the same draws.
    Below a cell's lowest block its run is the corrupted one, so it begins there. Holds (parts + samples) ·
    blocks · tokens · width numbers on the model's device, and one pass.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        noise: Float[Tensor, "sample token width"],
        *,
        batch_tokens: int = 8192,
    ) -> None:
        self.model, self.prompt, self.samples = model, prompt, len(noise)
        self._at_once = max(1, batch_tokens // len(prompt.ids))
        modules = {(kind, layer): model.module(kind, layer) for kind in PARTS for layer in range(model.depth)}
        with capture(outputs=modules) as seen:
            self._record(1)
        self._clean: Mapping[Part, Float[Tensor, "token width"]] = {part: seen[part][0] for part in modules}
        self.clean = float(self._answer(seen["block", model.depth - 1]))
        blocks = {layer: model.block(layer) for layer in range(model.depth)}
        with replace_output(model.embedding, self._hider(noise)), capture(outputs=blocks) as seen:
            self._replay = self._record(self.samples)
        self._before = [self._replay.hidden, *(seen[layer] for layer in blocks)]
        """What stands before each block in the corrupted runs, and after the last one."""
        self.corrupted: Float[Tensor, " sample"] = self._answer(self._before[-1])

    def probabilities(self, cells: Sequence[Restored]) -> Float[Tensor, "cell sample"]:
        """P(answer) of the corrupted run of every draw with each cell restored."""
        found = torch.empty(len(cells), self.samples, dtype=torch.float64)
        for first in range(self.model.depth):
            here = [i for i, cell in enumerate(cells) if min(cell.layers) == first]
            rows = list(product(here, range(self.samples)))
            for start in range(0, len(rows), self._at_once):
                index, sample = zip(*rows[start : start + self._at_once], strict=True)
                found[index, sample] = self._restored(first, [cells[i] for i in index], sample)
        return found

    def _restored(
        self, first: int, cells: Sequence[Restored], samples: Sequence[int]
    ) -> Float[Tensor, " row"]:
        """P(answer) of rows that are as corrupted below block `first`, a cell and a draw each."""
        places: dict[Part, list[tuple[int, int]]] = {}
        for row, cell in enumerate(cells):
            for layer in cell.layers:
                places.setdefault((cell.kind, layer), []).extend((row, p) for p in cell.positions)
        chosen = torch.tensor(samples)
        with ExitStack() as stack:
            for part, here in places.items():
                change = self._restorer(part, here)
                stack.enter_context(replace_output(self.model.module(*part), change))
            replay, hidden = self._replay.select(chosen), self._before[first][chosen]
            return self._answer(replay.run(hidden, first, self.model.depth - 1))

    def _hider(self, noise: Float[Tensor, "sample token width"]) -> Callable[[Tensor], Tensor]:
        def hide(output: Tensor) -> Tensor:
            output = output.clone()
            output[:, self.prompt.subject.start : self.prompt.subject.stop] += noise.to(output)
            return output

        return hide

    def _restorer(self, part: Part, here: Sequence[tuple[int, int]]) -> Callable[[Tensor], Tensor]:
        rows, positions = torch.tensor(here).unbind(dim=1)
        clean = self._clean[part][positions]

        def restore(output: Tensor) -> Tensor:
            output = output.clone()
            output[rows, positions] = clean
            return output

        return restore

    def _record(self, rows: int) -> PartialForward:
        """A pass over so many rows of the prompt, up to the head."""
        return record(self.model, [()] * rows, [self.prompt.ids] * rows, 0)

    def _answer(self, hidden: Float[Tensor, "row token width"]) -> Float[Tensor, " row"]:
        """P(answer) of states after the last block."""
        last = self.model.normed(hidden[:, -1])
        wanted = torch.tensor(self.prompt.answer, device=last.device).expand(len(last))
        said, _ = foretold(self.model, last, wanted)
        return said.double().exp().cpu()

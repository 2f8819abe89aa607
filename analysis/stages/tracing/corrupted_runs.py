"""Forward passes of causal tracing: noise hides the subject while single clean states are restored.

Source: Meng et al. 2022 (arXiv 2202.05262), section 2. All runs of one fact have the same tokens: each
restored cell with each draw of the noise is one row of a batch, nothing is padded, and a pass has as many
rows as its tokens allow.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.inference.residuals import PARTS, Part
from analysis.inference.scoring import score_tokens
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
class RestoredCell:
    """Outputs whose clean value is restored: of one kind of module, in some blocks, at some positions."""

    kind: str
    layers: Sequence[int]
    positions: Sequence[int]


def tokenize_fact(model: Model, fact: Fact) -> Prompt:
    """Tokenise the statement, and find subject and answer in it.

    Raises:
        DataError: if these share a token with their neighbours, or the text is too long for the model.
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

    The noise is added to the embeddings of the subject's tokens; every cell is restored under the same draws.
    Below a cell's lowest block its run equals the corrupted one, so the pass begins there. Holds (parts +
    samples) · blocks · tokens · width numbers on the model's device, and one pass.
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
        with capture(outputs=modules) as outputs:
            self._record(1)
        self._clean: Mapping[Part, Float[Tensor, "token width"]] = {
            part: outputs[part][0] for part in modules
        }
        self.clean = float(self._answer_probability(outputs["block", model.depth - 1]))
        blocks = {layer: model.block(layer) for layer in range(model.depth)}
        with replace_output(model.embedding, self._add_noise(noise)), capture(outputs=blocks) as outputs:
            self._replay = self._record(self.samples)
        self._before = [self._replay.hidden, *(outputs[layer] for layer in blocks)]
        """Inputs of each block in the corrupted runs, and the output of the last one."""
        self.corrupted: Float[Tensor, " sample"] = self._answer_probability(self._before[-1])

    def probabilities(self, cells: Sequence[RestoredCell]) -> Float[Tensor, "cell sample"]:
        """P(answer) of the corrupted run of every draw with each cell restored."""
        result = torch.empty(len(cells), self.samples, dtype=torch.float64)
        for first in range(self.model.depth):
            starting_here = [i for i, cell in enumerate(cells) if min(cell.layers) == first]
            rows = list(product(starting_here, range(self.samples)))
            for start in range(0, len(rows), self._at_once):
                index, sample = zip(*rows[start : start + self._at_once], strict=True)
                result[index, sample] = self._run_restored(first, [cells[i] for i in index], sample)
        return result

    def _run_restored(
        self, first: int, cells: Sequence[RestoredCell], samples: Sequence[int]
    ) -> Float[Tensor, " row"]:
        """P(answer) of rows with one cell and one draw each, which are corrupted below block `first`."""
        tokens: dict[Part, list[tuple[int, int]]] = {}
        for row, cell in enumerate(cells):
            for layer in cell.layers:
                tokens.setdefault((cell.kind, layer), []).extend((row, p) for p in cell.positions)
        index = torch.tensor(samples)
        with ExitStack() as stack:
            for part, rows_and_positions in tokens.items():
                restore = self._restore_clean(part, rows_and_positions)
                stack.enter_context(replace_output(self.model.module(*part), restore))
            replay, hidden = self._replay.select(index), self._before[first][index]
            return self._answer_probability(replay.run(hidden, first, self.model.depth - 1))

    def _add_noise(self, noise: Float[Tensor, "sample token width"]) -> Callable[[Tensor], Tensor]:
        def add(output: Tensor) -> Tensor:
            output = output.clone()
            output[:, self.prompt.subject.start : self.prompt.subject.stop] += noise.to(output)
            return output

        return add

    def _restore_clean(
        self, part: Part, rows_and_positions: Sequence[tuple[int, int]]
    ) -> Callable[[Tensor], Tensor]:
        rows, positions = torch.tensor(rows_and_positions).unbind(dim=1)
        clean = self._clean[part][positions]

        def restore(output: Tensor) -> Tensor:
            output = output.clone()
            output[rows, positions] = clean
            return output

        return restore

    def _record(self, rows: int) -> PartialForward:
        """A pass over `rows` copies of the prompt, up to the head."""
        return record(self.model, [()] * rows, [self.prompt.ids] * rows, 0)

    def _answer_probability(self, hidden: Float[Tensor, "row token width"]) -> Float[Tensor, " row"]:
        """P(answer) of states after the last block."""
        last = self.model.normed(hidden[:, -1])
        answers = torch.tensor(self.prompt.answer, device=last.device).expand(len(last))
        log_probabilities, _ = score_tokens(self.model, last, answers)
        return log_probabilities.double().exp().cpu()

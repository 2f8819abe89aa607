"""The control that writes the real edits and rescales the next norm layer on the residual stream.

After every update, for each edited block from the lowest on, gain and bias of the norm layer above the block
are multiplied by s = n₀ / n (the gain of Gemma is 1 + weight). Here n is the mean Euclidean norm of that
layer's output over the tokens of a fixed text, and n₀ the same in the unedited model. The next block then
reads vectors of the unedited length, while the residual stream itself is left as edited.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from editors.controls.controls import Control
from editors.data import Corpus
from editors.errors import ConfigError, DataError
from editors.models.hooks import capture
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize
from editors.updates import Site

Batch = tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]

_ROWS = 16
"""Documents in one forward pass."""


@dataclass(kw_only=True)
class NormRescaled(Control):
    """W + Δ, with norm layers whose outputs have their unedited length on average.

    An update costs a forward pass over the text for each edited block, up to the block above it.
    """

    name: str = "norm_rescaled"
    corpus: Corpus
    """Corpus of the fixed text."""
    tokens: int = 4000
    """Length of the fixed text, from the beginning of the corpus; more measure more precisely."""
    longest: int = 128
    """Largest number of tokens of one document."""
    _layers: Sequence[int] = field(default=(), init=False, repr=False)
    _batches: Sequence[Batch] = field(default=(), init=False, repr=False)
    _unedited: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _scales: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _gains: dict[int, dict[str, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for key in ("tokens", "longest"):
            if getattr(self, key) < 1:
                raise ConfigError(f"control.{key}={getattr(self, key)}, but at least 1 token is needed")

    def will_read(self, model: str) -> Iterable[Corpus]:
        """The corpus."""
        return (self.corpus,)

    def prepare(self, model: Model, edited: Sequence[Site]) -> None:
        """Read the text, copy the gains and measure the outputs of the norm layers on the unedited model.

        Raises:
            ConfigError: if the next block reads the residual stream without a norm.
            DataError: if the corpus holds no text.
        """
        self._layers = sorted({site.layer for site in edited})
        self._batches = self._read(model)
        self._gains = {layer: _gain(model, layer) for layer in self._layers}
        self._scales = dict.fromkeys(self._layers, 1.0)
        self._unedited = {layer: self._output_norm(model, layer) for layer in self._layers}

    def applied(self, model: Model) -> None:
        """Scale the norm layers, lowest first, because the inputs of higher ones depend on lower ones."""
        for layer in self._layers:
            self._scale(
                model, layer, self._scales[layer] * self._unedited[layer] / self._output_norm(model, layer)
            )

    def put_back(self, model: Model) -> None:
        """Restore the unedited gains."""
        for layer in self._layers:
            self._scale(model, layer, 1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """The factors of the gains."""
        return {"scales": torch.tensor([self._scales[layer] for layer in self._layers], dtype=torch.float64)}

    def load_state_dict(self, model: Model, state: Mapping[str, Tensor]) -> None:
        """Write the gains into the model."""
        for layer, scale in zip(self._layers, state["scales"].tolist(), strict=True):
            self._scale(model, layer, scale)

    def _read(self, model: Model) -> list[Batch]:
        rows: list[tuple[int, ...]] = []
        left, longest = self.tokens, min(self.longest, model.max_tokens)
        for text in self.corpus:
            if ids := tokenize(model.tokenizer, text).ids[: min(longest, left)]:
                rows.append(tuple(ids))
                left -= len(ids)
            if not left:
                break
        if not rows:
            raise DataError(f"{self.corpus.label} holds no text to measure norm layers on")
        rows.sort(key=len)
        padded = [pad(rows[first : first + _ROWS]) for first in range(0, len(rows), _ROWS)]
        return [(ids.to(model.device), mask.to(model.device)) for ids, mask in padded]

    @torch.no_grad()
    def _output_norm(self, model: Model, layer: int) -> float:
        """Mean norm of the output of the norm layer above a block."""
        norm, total, count = norm_after(model, layer), 0.0, 0
        for ids, mask in self._batches:
            with capture(outputs={"norm": norm}, stop_after=norm) as captured:
                model.hidden(ids, mask)
            vectors = captured["norm"][mask.to(captured["norm"].device)]
            total += float(vectors.double().norm(dim=-1).sum())
            count += len(vectors)
        return total / count

    @torch.no_grad()
    def _scale(self, model: Model, layer: int, scale: float) -> None:
        self._scales[layer] = scale
        for name, parameter in norm_after(model, layer).named_parameters():
            offset = model.family.gain_offset if name == "weight" else 0.0
            parameter.copy_(self._gains[layer][name].double() * scale + offset * (scale - 1))


def norm_after(model: Model, layer: int) -> nn.Module:
    """The next norm layer on the residual stream: the following block's, or the final norm after the last.

    Raises:
        ConfigError: if the following block reads the stream without a norm (OLMo 2).
    """
    if layer == model.depth - 1:
        return model.hf.get_submodule(model.family.final_norm)
    if model.family.input_norm is None:
        raise ConfigError(
            f"control=norm_rescaled scales the norm above block {layer}, but the blocks of {model.name} read "
            "the residual stream without one: choose another control"
        )
    return model.block(layer + 1).get_submodule(model.family.input_norm)


def _gain(model: Model, layer: int) -> dict[str, Tensor]:
    """Copies of the parameters of the norm layer above a block."""
    return {name: value.detach().clone() for name, value in norm_after(model, layer).named_parameters()}

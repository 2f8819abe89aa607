"""Context templates under which a fact is learnt, so that its target does not depend on one wording.

Published code samples them unseeded, from the first model state that is loaded, and keeps them in a module
global. Here they follow from a seed and the unedited model, and belong to the editor's state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from editors.data import SLOT
from editors.models.model import Model
from editors.models.tokenization import tokenize

Groups = tuple[tuple[str, ...], ...]
"""Templates with one slot each. A key is the mean of its groups' means; the first template is bare."""


@runtime_checkable
class ContextSource(Protocol):
    """A source of the context templates of a run."""

    def groups(self, model: Model) -> Groups:
        """The templates; the first of the first group is the bare slot."""
        ...


@dataclass(frozen=True, kw_only=True)
class SampledContexts:
    """Templates `"<continuation>. {}"` sampled from the model.

    ROME samples 10 continuations of 5 and 10 of 10 tokens from the end-of-text token and averages all
    templates alike; MEMIT samples one of 10 tokens for each of five words and gives the bare slot half
    of the weight. Source: kmeng01/rome and kmeng01/memit, `get_context_templates`.
    """

    starts: Sequence[str] = ("The", "Therefore", "Because", "I", "You")
    """Text that each sample continues; an empty one stands for the end-of-text token."""
    lengths: Sequence[int] = (10,)
    """Number of tokens of the samples, start included; one sample for each start and length."""
    top_k: int = 5
    """Most probable tokens from which each next token is sampled."""
    bare_weighs_half: bool = True
    """Whether the bare slot forms a group of its own, with half of the weight."""
    seed: int = 0
    """Seed of the samples."""

    def groups(self, model: Model) -> Groups:
        """Sample once for each start and length; the same seed and model give the same templates."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        samples = tuple(
            _template(_continue(model, start, length, self.top_k, generator))
            for length in self.lengths
            for start in self.starts
        )
        return ((SLOT,), samples) if self.bare_weighs_half else ((SLOT, *samples),)


@dataclass(frozen=True, kw_only=True)
class GivenContexts:
    """Fixed templates, for example those of a published run."""

    templates: Groups

    def groups(self, model: Model) -> Groups:
        """The templates, whatever the model."""
        return self.templates


def flat(groups: Groups) -> tuple[str, ...]:
    """All templates in order."""
    return tuple(template for group in groups for template in group)


def mean_over(groups: Groups, values: Float[Tensor, "fact template width"]) -> Float[Tensor, "fact width"]:
    """Mean of the group means over the templates."""
    parts = values.split([len(group) for group in groups], dim=1)
    return torch.stack([part.mean(dim=1) for part in parts]).mean(dim=0)


def _template(text: str) -> str:
    """A template from a sample, without braces (they mark slots) and line ends (they end the sentence)."""
    for symbol in "{}\n":
        text = text.replace(symbol, " ")
    return f"{text.strip()}. {SLOT}"


@torch.no_grad()
def _continue(model: Model, start: str, length: int, top_k: int, generator: torch.Generator) -> str:
    """Top-k sampling of a text of `length` tokens that begins with `start`."""
    ids = _start_ids(model, start)
    while len(ids) < length:
        row = torch.tensor([ids], device=model.device)
        hidden = model.hidden(row, torch.ones_like(row, dtype=torch.bool))[0, -1]
        best = model.logits(hidden).topk(top_k)
        index = torch.multinomial(best.values.softmax(dim=-1).cpu(), 1, generator=generator)
        ids.append(int(best.indices[int(index)]))
    return str(model.tokenizer.decode(ids, skip_special_tokens=True))


def _start_ids(model: Model, start: str) -> list[int]:
    if start:
        return list(tokenize(model.tokenizer, start).ids)
    first = model.tokenizer.bos_token_id
    return [cast(int, model.tokenizer.eos_token_id if first is None else first)]

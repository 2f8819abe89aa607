"""Context templates under which a fact is learnt, so that its target does not depend on one wording.

Published code samples them unseeded, from the first model state that is loaded, and keeps them in a module
global. Here they follow from a seed and the unedited model, and belong to the editor's state.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from editors.data import SLOT
from editors.models.model import Model
from editors.models.tokenization import tokenize
from editors.moments.tensor_cache import TensorCache
from editors.phases import Phase, Report, silent
from editors.text_files import local_path

Groups = tuple[tuple[str, ...], ...]
"""Templates with one slot each. A key is the mean of its groups' means; the first template is bare."""
FORMAT = 1
"""Version of the sampling; raised by a change after which the same seed gives other texts."""
_ENTRY = "texts"
_NOT_SAMPLED = ("cache", "bare_weighs_half")
"""Options without influence on the samples."""


@runtime_checkable
class ContextSource(Protocol):
    """A source of the context templates of a run."""

    def groups(self, model: Model, report: Report = silent) -> Groups:
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
    cache: str | None = None
    """Folder in which the samples of a model are kept, so that a run that continues, or another run of the
    same model and seed, reads them; null samples them every time. It changes no number."""

    def groups(self, model: Model, report: Report = silent) -> Groups:
        """Sample once for each start and length; the same seed and model give the same templates."""
        texts = self._sample(model, report) if self.cache is None else self._kept(model, self.cache, report)
        samples = tuple(map(_template, texts))
        return ((SLOT,), samples) if self.bare_weighs_half else ((SLOT, *samples),)

    def _sample(self, model: Model, report: Report) -> list[str]:
        requests = [(start, length) for length in self.lengths for start in self.starts]
        return _sampled(model, requests, self.top_k, self.seed, report)

    def _kept(self, model: Model, folder: str, report: Report) -> list[str]:
        """The samples of the cache; sampled and written there if it has none, or a damaged file."""
        options = {key: value for key, value in asdict(self).items() if key not in _NOT_SAMPLED}
        place = {"model": model.digest, "dtype": str(model.dtype), "device": model.device.type}
        store = TensorCache(local_path(folder), model.name, {"format": FORMAT, **place, **options})
        with store.locked():
            cached = store.read(_ENTRY)
            if cached is not None:
                return json.loads(cached.notes[_ENTRY])
            texts = self._sample(model, report)
            store.write(_ENTRY, {}, **{_ENTRY: json.dumps(texts)})
        return texts


@dataclass(frozen=True, kw_only=True)
class GivenContexts:
    """Fixed templates, for example those of a published run."""

    templates: Groups

    def groups(self, model: Model, report: Report = silent) -> Groups:
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


@dataclass
class _Sample:
    """A text that is being sampled."""

    ids: list[int]
    length: int
    """Number of tokens at which it is complete."""
    generator: torch.Generator
    """Its own draws, so that they do not depend on the other samples of the batch."""


def _sampled(
    model: Model, requests: Sequence[tuple[str, int]], top_k: int, seed: int, report: Report
) -> list[str]:
    """Top-k sampling of a text for each start and number of tokens, in batches of equally long starts.

    Each text draws what it would if all were sampled one after another from one generator.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    uniform = torch.ones(top_k, dtype=torch.promote_types(model.dtype, torch.float32))
    samples: list[_Sample] = []
    for start, length in requests:
        ids = _start_ids(model, start)
        samples.append(_Sample(ids, length, generator.clone_state()))
        for _ in range(len(ids), length):  # draws of this text, which the next one begins after
            torch.multinomial(uniform, 1, generator=generator)
    batches: dict[int, list[_Sample]] = {}
    for sample in samples:
        batches.setdefault(len(sample.ids), []).append(sample)
    done, total = 0, sum(sample.length for sample in samples)
    for batch in batches.values():
        _continue(model, batch, top_k, lambda tokens, done=done: report(_sampling(done + tokens, total)))
        done += sum(sample.length for sample in batch)
    return [str(model.tokenizer.decode(sample.ids, skip_special_tokens=True)) for sample in samples]


@torch.no_grad()
def _continue(model: Model, batch: Sequence[_Sample], top_k: int, reached: Callable[[int], object]) -> None:
    """Continue equally long texts to their lengths; keys and values of earlier tokens are kept."""
    cache, begun = DynamicCache(), len(batch[0].ids)
    longest = max(sample.length for sample in batch)
    while (count := len(batch[0].ids)) < longest:
        reached(sum(min(count, sample.length) for sample in batch))
        rows = torch.tensor([sample.ids[cache.get_seq_length() :] for sample in batch], device=model.device)
        best = model.logits(model.hidden_next(rows, cache)[:, -1]).topk(top_k)
        weights, choices = best.values.softmax(dim=-1).cpu(), best.indices.tolist()
        for sample, row, options in zip(batch, weights, choices, strict=True):
            # a complete text is padded, so that the rows stay aligned
            index = torch.multinomial(row, 1, generator=sample.generator) if count < sample.length else 0
            sample.ids.append(options[int(index)])
    for sample in batch:
        del sample.ids[max(sample.length, begun) :]


def _sampling(done: int, total: int) -> Phase:
    return Phase(name="sampling contexts", count=done, total=total, unit="tokens")


def _start_ids(model: Model, start: str) -> list[int]:
    if start:
        return list(tokenize(model.tokenizer, start).ids)
    first = model.tokenizer.bos_token_id
    return [cast(int, model.tokenizer.eos_token_id if first is None else first)]

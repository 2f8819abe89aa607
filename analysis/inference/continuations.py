"""Continuations of prompts: greedy or top-k, in left-padded batches, through transformers' `generate`.

A checkpoint's own generation defaults (temperatures, penalties) are ignored, so that all models are measured
alike. Greedy continuations do not depend on which texts share a batch, unless two tokens are equally likely
up to rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import transformers
from torch import Tensor

from analysis.inference.scoring import Ids
from editors.errors import DataError, NumericsError
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize_all


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Sampling among the likeliest tokens, in proportion to their probabilities."""

    k: int = 5
    """Number of tokens to sample from."""
    seed: int = 0
    """The same seed, texts and model give the same samples; the global random state stays as it is."""


@dataclass(frozen=True)
class _Request:
    """A prompt to continue."""

    index: int
    ids: Ids
    new: int
    """Number of tokens to generate."""


@dataclass(frozen=True)
class _Endings:
    """What ends a continuation."""

    tokens: Sequence[int]
    texts: Sequence[str] = ()


@torch.inference_mode()
def continuations(
    model: Model,
    prompts: Sequence[str],
    *,
    tokens: int,
    counts_prompt: bool = False,
    stops: bool = True,
    sampling: TopK | None = None,
    batch_tokens: int = 8192,
) -> list[str]:
    """The continuation of each prompt: `tokens` tokens, or up to `tokens` in all with `counts_prompt`.

    A continuation ends earlier at the longest text that the model reads, and with `stops` at the end-of-text
    token.

    Raises:
        DataError: for a prompt that leaves no room for a token.
        NumericsError: if the model's scores are NaN or infinite.
    """
    requests = _requests(model, prompts, tokens, counts_prompt)
    endings = _Endings(_end_tokens(model) if stops else [])
    new = _all(model, requests, endings, sampling, batch_tokens)
    return [_decode(model, request.ids, new[request.index]) for request in requests]


def free_texts(model: Model, prompts: Sequence[str], *, tokens: int, batch_tokens: int = 8192) -> list[str]:
    """Greedy continuations; empty ones from a model whose scores are no numbers, which writes nothing."""
    try:
        return continuations(model, prompts, tokens=tokens, batch_tokens=batch_tokens)
    except NumericsError:
        return [""] * len(prompts)


@torch.inference_mode()
def greedy_tokens(
    model: Model, prompts: Sequence[Ids], *, tokens: int, stop: Sequence[str] = (), batch_tokens: int = 8192
) -> list[Ids]:
    """The tokens that follow each prompt, up to the end-of-text token or just beyond a text of `stop`.

    Raises:
        NumericsError: if the model's scores are NaN or infinite.
    """
    requests = [_Request(i, ids, tokens) for i, ids in enumerate(prompts)]
    new = _all(model, requests, _Endings(_end_tokens(model), stop), None, batch_tokens)
    return [new[request.index] for request in requests]


def _all(
    model: Model,
    requests: Sequence[_Request],
    endings: _Endings,
    sampling: TopK | None,
    batch_tokens: int,
) -> dict[int, Ids]:
    """The new tokens of every request, by its index."""
    found: dict[int, Ids] = {}
    with _without_defaults(model.hf), _seeded(sampling):
        for group in _groups(requests, model.max_tokens, batch_tokens):
            for request, new in zip(group, _generate(model, group, endings, sampling), strict=True):
                found[request.index] = new
    return found


def _requests(model: Model, prompts: Sequence[str], tokens: int, counts_prompt: bool) -> list[_Request]:
    requests = []
    for i, text in enumerate(tokenize_all(model.tokenizer, prompts)):
        most = min(tokens if counts_prompt else len(text.ids) + tokens, model.max_tokens)
        if most <= len(text.ids):
            raise DataError(
                f"{text.text!r} has {len(text.ids)} tokens, but with its continuation it may have {most} "
                f"({model.name} reads {model.max_tokens}): leave it out or allow more tokens"
            )
        requests.append(_Request(i, text.ids, most - len(text.ids)))
    return requests


def _groups(requests: Sequence[_Request], max_tokens: int, batch_tokens: int) -> Iterator[list[_Request]]:
    """Requests of similar length; no row grows longer than the model's longest text."""
    group: list[_Request] = []
    new = 0
    for request in sorted(requests, key=lambda request: len(request.ids)):
        length = len(request.ids) + max(new, request.new)
        if group and (length > max_tokens or (len(group) + 1) * length > batch_tokens):
            yield group
            group, new = [], 0
        group.append(request)
        new = max(new, request.new)
    if group:
        yield group


def _generate(model: Model, group: Sequence[_Request], endings: _Endings, sampling: TopK | None) -> list[Ids]:
    """The new tokens of each row, up to its end-of-text token."""
    end_tokens = endings.tokens
    ids, mask = (x.to(model.device) for x in pad([request.ids for request in group], "left"))
    config = transformers.GenerationConfig(
        max_new_tokens=max(request.new for request in group),
        do_sample=sampling is not None,
        **({"top_k": sampling.k} if sampling else {}),
        eos_token_id=list(end_tokens) or None,
        pad_token_id=end_tokens[0] if end_tokens else 0,
        use_cache=True,
        **({"stop_strings": [*endings.texts]} if endings.texts else {}),
    )
    generate = cast(Callable[..., Tensor], model.hf.generate)
    output = generate(
        input_ids=ids,
        attention_mask=mask.long(),
        generation_config=config,
        logits_processor=transformers.LogitsProcessorList([_FiniteScores()]),
        **({"tokenizer": model.tokenizer} if endings.texts else {}),
    )
    rows = output[:, ids.shape[1] :].tolist()
    return [_before_end(row[: request.new], end_tokens) for request, row in zip(group, rows, strict=True)]


class _FiniteScores:
    """Refuses scores that are NaN, of which greedy search would take the first token."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores unchanged; −∞ is allowed, since top-k sampling sets it."""
        if bool((scores.isnan() | (scores == torch.inf)).any()):
            raise NumericsError("the model's scores are NaN or infinite, so it cannot continue a text")
        return scores


def _end_tokens(model: Model) -> list[int]:
    """The end-of-text tokens of the model; those of the tokenizer if the model names none."""
    defaults = model.hf.generation_config
    own = None if defaults is None else defaults.eos_token_id
    ends = cast(int | list[int] | None, model.tokenizer.eos_token_id if own is None else own)
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _before_end(ids: Sequence[int], end_tokens: Sequence[int]) -> Ids:
    return tuple(ids[: next((i for i, token in enumerate(ids) if token in end_tokens), len(ids))])


def _decode(model: Model, prompt: Ids, new: Ids) -> str:
    """The new tokens as text; a tokenizer may drop the space before a text that begins with it."""
    before, whole = (
        str(model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for ids in (list(prompt), [*prompt, *new])
    )
    return whole[len(before) :]


@contextmanager
def _without_defaults(hf: "transformers.PreTrainedModel") -> Iterator[None]:
    """Hide the model's generation defaults, with which `generate` would fill in unset options."""
    defaults = hf.generation_config
    hf.generation_config = transformers.GenerationConfig()
    try:
        yield
    finally:
        hf.generation_config = defaults


@contextmanager
def _seeded(sampling: TopK | None) -> Iterator[None]:
    """Seed the global random state, from which `generate` samples; restored on exit, on every GPU too."""
    if sampling is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(sampling.seed)
        yield

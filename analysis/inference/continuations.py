"""What a model goes on to write: greedy or top-k, in left-padded batches, through transformers' `generate`.

A checkpoint's own generation defaults (temperatures, penalties) are left aside: they would change what is
measured from model to model. Greedy continuations do not depend on which texts share a batch, except where
two tokens are equally likely up to rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from analysis.inference.scoring import Ids
from editors.errors import DataError, NumericsError
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize_all


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Sampling among the likeliest tokens, in proportion to their probabilities."""

    k: int = 5
    seed: int = 0
    """The same seed, texts and model give the same samples; the global random state stays as it is."""


@dataclass(frozen=True)
class _Task:
    index: int
    ids: Ids
    new: int
    """Tokens to write."""


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
    """What follows each prompt: `tokens` tokens, or up to `tokens` in all if the prompt counts.

    A continuation ends earlier where the model's longest text ends, and with `stops` at the end-of-text
    token.

    Raises:
        DataError: for a prompt that leaves no room for a token.
        NumericsError: where the model's scores are NaN or infinite.
    """
    tasks = _tasks(model, prompts, tokens, counts_prompt)
    ends = _ends(model) if stops else []
    written: dict[int, str] = {}
    with _own_defaults(model.hf), _own_randomness(sampling):
        for group in _groups(tasks, model.max_tokens, batch_tokens):
            for task, new in zip(group, _generate(model, group, ends, sampling), strict=True):
                written[task.index] = _spelt(model, task.ids, new)
    return [written[i] for i in range(len(prompts))]


def _tasks(model: Model, prompts: Sequence[str], tokens: int, counts_prompt: bool) -> list[_Task]:
    tasks = []
    for i, text in enumerate(tokenize_all(model.tokenizer, prompts)):
        most = min(tokens if counts_prompt else len(text.ids) + tokens, model.max_tokens)
        if most <= len(text.ids):
            raise DataError(
                f"{text.text!r} has {len(text.ids)} tokens, but with its continuation it may have {most} "
                f"({model.name} reads {model.max_tokens}): leave it out or allow more tokens"
            )
        tasks.append(_Task(i, text.ids, most - len(text.ids)))
    return tasks


def _groups(tasks: Sequence[_Task], max_tokens: int, batch_tokens: int) -> Iterator[list[_Task]]:
    """Tasks of similar length; no row is written on beyond the model's longest text."""
    group: list[_Task] = []
    new = 0
    for task in sorted(tasks, key=lambda task: len(task.ids)):
        length = len(task.ids) + max(new, task.new)
        if group and (length > max_tokens or (len(group) + 1) * length > batch_tokens):
            yield group
            group, new = [], 0
        group.append(task)
        new = max(new, task.new)
    if group:
        yield group


def _generate(model: Model, group: Sequence[_Task], ends: Sequence[int], sampling: TopK | None) -> list[Ids]:
    """The new tokens of each row, without the end-of-text token and what follows it."""
    ids, mask = (x.to(model.device) for x in pad([task.ids for task in group], "left"))
    config = GenerationConfig(
        max_new_tokens=max(task.new for task in group),
        do_sample=sampling is not None,
        **({"top_k": sampling.k} if sampling else {}),
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
        use_cache=True,
    )
    generate = cast(Callable[..., Tensor], model.hf.generate)
    output = generate(
        input_ids=ids,
        attention_mask=mask.long(),
        generation_config=config,
        logits_processor=LogitsProcessorList([_Finite()]),
    )
    rows = output[:, ids.shape[1] :].tolist()
    return [_until(row[: task.new], ends) for task, row in zip(group, rows, strict=True)]


class _Finite(LogitsProcessor):
    """Refuses scores that are no numbers, of which greedy search would take the first token."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores as they are; −∞ is what top-k leaves out."""
        if bool((scores.isnan() | (scores == torch.inf)).any()):
            raise NumericsError("the model's scores are NaN or infinite, so that it cannot write on")
        return scores


def _ends(model: Model) -> list[int]:
    """The end-of-text tokens of the model, or else of the tokenizer."""
    defaults = model.hf.generation_config
    own = None if defaults is None else defaults.eos_token_id
    ends = cast(int | list[int] | None, model.tokenizer.eos_token_id if own is None else own)
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _until(ids: Sequence[int], ends: Sequence[int]) -> Ids:
    return tuple(ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))])


def _spelt(model: Model, prompt: Ids, new: Ids) -> str:
    """The new tokens as text; a tokenizer may drop the space before a text that begins with it."""
    before, whole = (
        str(model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for ids in (list(prompt), [*prompt, *new])
    )
    return whole[len(before) :]


@contextmanager
def _own_defaults(hf: PreTrainedModel) -> Iterator[None]:
    """`generate` fills in what a configuration leaves open from the model's own: here from none."""
    kept = hf.generation_config
    hf.generation_config = GenerationConfig()
    try:
        yield
    finally:
        hf.generation_config = kept


@contextmanager
def _own_randomness(sampling: TopK | None) -> Iterator[None]:
    """`generate` draws from the global state: seeded inside, as before afterwards, on every GPU too."""
    if sampling is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(sampling.seed)
        yield

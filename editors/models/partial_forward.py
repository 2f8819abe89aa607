"""Partial forward passes: only the blocks, and only the tokens, that a change can reach.

The model is run once. The arguments of each block (masks, positions, rotary tables) are recorded, and the
blocks can then be called again on other hidden states. Nothing below the first block is recomputed, and no
token of a prefix: its keys and values stay in a cache that is read and never extended. This works for every
family, because a block is only called with the arguments of its own model. A sliding window counts columns,
padding included: it is exact as long as padded prompts are shorter.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from editors.models.hooks import capture, first_tensor
from editors.models.kv_cache import LatestLayer, StemLayer, extendable, frozen, select_rows, states_of
from editors.models.model import Model, position_ids
from editors.models.tokenization import pad


@dataclass(frozen=True)
class _Call:
    """Arguments of one block, without its hidden states."""

    args: tuple
    kwargs: dict


@dataclass(frozen=True)
class PartialForward:
    """A batch that was run up to block `first`, and the arguments of the blocks from there on."""

    model: Model
    first: int
    hidden: Float[Tensor, "row token width"]
    """Input of block `first`."""
    calls: Sequence[_Call]
    """One for each recorded block."""

    def run(
        self, hidden: Float[Tensor, "row token width"], first: int, last: int
    ) -> Float[Tensor, "row token width"]:
        """Hidden states after block `last`, from hidden states before block `first`."""
        for layer in range(first, last + 1):
            call = self.calls[layer - self.first]
            hidden = first_tensor(self.model.block(layer)(hidden, *call.args, **call.kwargs))
        return hidden

    def held(self) -> int:
        """Bytes of the cached keys and values."""
        arguments = [value for call in self.calls for value in (*call.args, *call.kwargs.values())]
        caches = {id(value): value for value in arguments if isinstance(value, Cache)}
        states = [state for cache in caches.values() for layer in cache.layers for state in states_of(layer)]
        return sum(state.numel() * state.itemsize for state in states)

    def select(self, rows: Int[Tensor, " kept"]) -> "PartialForward":
        """The same batch with only the given rows."""
        selection = _RowSelection(rows, count=self.hidden.shape[0])
        calls = [
            _Call(
                tuple(map(selection, call.args)),
                {key: selection(value) for key, value in call.kwargs.items()},
            )
            for call in self.calls
        ]
        return PartialForward(self.model, self.first, self.hidden[rows], calls)


class _RowSelection:
    """Selects rows of every value that has one entry per row; values shared by blocks stay shared."""

    def __init__(self, rows: Int[Tensor, " kept"], count: int) -> None:
        self.rows, self.count = rows, count
        self._done: dict[int, tuple[object, object]] = {}

    def __call__(self, value: object) -> object:
        if id(value) not in self._done:
            self._done[id(value)] = (value, self._cut(value))
        return self._done[id(value)][1]

    def _cut(self, value: object) -> object:
        if isinstance(value, Tensor):
            return value[self.rows] if value.ndim > 1 and value.shape[0] == self.count else value
        if isinstance(value, tuple):
            return tuple(self._cut(part) for part in value)
        if isinstance(value, Cache):
            return select_rows(value, self.rows)
        return value


@torch.no_grad()
def record(
    model: Model,
    prefixes: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    first: int,
    last: int | None = None,
    shared: Sequence[int] | None = None,
) -> PartialForward:
    """Run the model on prefix + tail of every row and record the blocks `first` to `last` (null: the top).

    Column 0 of the recorded hidden states is the first token of every tail. Nothing above `last` is run.
    `shared` is the number of leading tokens of each prefix that other rows may share; they are run once.
    """
    last = model.depth - 1 if last is None else last
    stems, row = _stems(prefixes, shared or [0] * len(prefixes))
    rest = [prefix[len(stems[i]) :] for prefix, i in zip(prefixes, row.tolist(), strict=True)]
    row = row.to(model.device)
    past, known = _extended(model, stems, None, torch.zeros(len(stems), 0, dtype=torch.bool), last)
    past, known = _extended(model, rest, None if past is None else select_rows(past, row), known[row], last)
    return _recorded(model, pad(tails), known, past, first, last)


@torch.no_grad()
def branch(
    model: Model, rows: Sequence[Sequence[int]], shared: Sequence[int], first: int, last: int
) -> tuple[PartialForward | None, PartialForward, Int[Tensor, " row"]]:
    """Stems shared by several rows, the rest of every row, and the length of each row's stem.

    After a change of the stems' hidden states, run the stems through a block before the rows, which read the
    stems' latest keys and values. There are no stems if too few rows share one.
    """
    stems, row = _stems(rows, shared)
    rest = [ids[len(stems[i]) :] for ids, i in zip(rows, row.tolist(), strict=True)]
    lengths = torch.tensor([len(stem) for stem in stems])[row].to(model.device)
    if stems == [()]:
        return None, record(model, [()] * len(rest), rest, first, last), lengths
    latest = [LatestLayer() for _ in range(last + 1)]
    ids, mask = pad(stems, "left")
    unknown = torch.zeros(len(stems), 0, dtype=torch.bool, device=model.device)
    stem = _recorded(model, (ids, mask), unknown, Cache(layers=[*latest]), first, last)
    row = row.to(model.device)
    past = Cache(layers=[StemLayer(layer, row) for layer in latest])
    return stem, _recorded(model, pad(rest), mask.to(model.device)[row], past, first, last), lengths


def _stems(
    rows: Sequence[Sequence[int]], shared: Sequence[int]
) -> tuple[list[tuple[int, ...]], Int[Tensor, " row"]]:
    """The distinct beginnings of the rows, and the index of each row's; only an empty one if few share."""
    heads: list[tuple[int, ...]] = [tuple(row[:count]) for row, count in zip(rows, shared, strict=True)]
    stems, sharing = list(dict.fromkeys(heads)), [head for head in heads if head]
    if len(set(sharing)) > len(sharing) // 2:  # a separate pass would cost more than it saves
        return [()], torch.zeros(len(rows), dtype=torch.long)
    return stems, torch.tensor([stems.index(head) for head in heads])


def _recorded(
    model: Model,
    padded: tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]],
    known: Bool[Tensor, "row before"],
    past: Cache | None,
    first: int,
    last: int,
) -> PartialForward:
    """Run tokens that follow those of the cache and record the blocks' arguments."""
    ids, new = (x.to(model.device) for x in padded)
    calls: list[tuple[Tensor, _Call]] = []
    with ExitStack() as hooks:
        hooks.enter_context(capture(stop_after=model.block(last)))
        for block in model.blocks[first : last + 1]:
            handle = block.register_forward_pre_hook(_recorder(calls), with_kwargs=True)
            hooks.callback(handle.remove)
        _run(model, ids, torch.cat([known, new], dim=1), past)
    return PartialForward(model, first, calls[0][0], [call for _, call in calls])


def _extended(
    model: Model,
    rows: Sequence[Sequence[int]],
    past: Cache | None,
    known: Bool[Tensor, "row before"],
    last: int,
) -> tuple[Cache | None, Bool[Tensor, "row known"]]:
    """The cache and its mask after more tokens of every row, padded on the left."""
    ids, new = (x.to(model.device) for x in pad(rows, "left"))
    mask = torch.cat([known.to(model.device), new], dim=1)
    if not ids.shape[1]:
        return past, mask
    filled = DynamicCache() if past is None else extendable(past)
    with capture(stop_after=model.block(last)):
        _run(model, ids, mask, filled)
    return frozen(states_of(layer) for layer in filled.layers), mask


def _run(
    model: Model, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row known"], past: Cache | None
) -> None:
    """Run tokens that follow those of the cache."""
    model.hf.base_model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=position_ids(mask)[:, mask.shape[1] - ids.shape[1] :],
        past_key_values=past,
        use_cache=past is not None,
    )


def _recorder(calls: list[tuple[Tensor, _Call]]) -> Callable[[nn.Module, tuple, dict], None]:
    def hook(_block: nn.Module, args: tuple, kwargs: dict) -> None:
        if args:
            calls.append((args[0], _Call(args[1:], kwargs)))
        else:
            rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            calls.append((kwargs["hidden_states"], _Call((), rest)))

    return hook

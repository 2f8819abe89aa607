"""Run only the blocks that a change can reach, on only the tokens that it can reach.

The model is run once; how it called each block (masks, positions, rotary tables) is recorded, and the
blocks can then be called again on other hidden states. Nothing below the first block is recomputed, and
where a prefix was given, no token of it: its keys and values stay in a cache that is read, never grown.
Works for every family, since a block is only ever called the way its own model calls it. A sliding window
counts columns, padding included: exact as long as padded prompts are shorter than it.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from editors.model.hooks import capture, first_tensor
from editors.model.model import Model, position_ids
from editors.model.positions import pad


class _FrozenLayer(DynamicLayer):
    """Keys and values of a prefix: read together with new ones, which are not kept."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Prefix and new states side by side."""
        keys, values = _states(self)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


@dataclass(frozen=True)
class _Call:
    """Arguments of one block, its hidden states left out."""

    args: tuple
    kwargs: dict


@dataclass(frozen=True)
class Replay:
    """A batch that stands before block `first`, and how to run it on."""

    model: Model
    first: int
    hidden: Float[Tensor, "row token width"]
    """Input of block `first`."""
    calls: Sequence[_Call]
    """One for each recorded block."""

    def run(
        self, hidden: Float[Tensor, "row token width"], first: int, last: int
    ) -> Float[Tensor, "row token width"]:
        """Hidden states after block `last` of states that stand before block `first`."""
        for layer in range(first, last + 1):
            call = self.calls[layer - self.first]
            hidden = first_tensor(self.model.block(layer)(hidden, *call.args, **call.kwargs))
        return hidden

    def held(self) -> int:
        """Bytes of the cached keys and values."""
        caches = {id(v): v for call in self.calls for v in call.kwargs.values() if isinstance(v, Cache)}
        states = [state for cache in caches.values() for layer in cache.layers for state in _states(layer)]
        return sum(state.numel() * state.itemsize for state in states)

    def select(self, rows: Int[Tensor, " kept"]) -> "Replay":
        """The same batch with only the given rows."""
        chosen = _Selection(rows, count=self.hidden.shape[0])
        calls = [
            _Call(tuple(map(chosen, call.args)), {key: chosen(value) for key, value in call.kwargs.items()})
            for call in self.calls
        ]
        return Replay(self.model, self.first, self.hidden[rows], calls)


class _Selection:
    """Takes rows of whatever has one entry a row; what blocks share is cut once and stays shared."""

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
            return _chosen(value, self.rows)
        return value


@torch.no_grad()
def record(
    model: Model,
    prefixes: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    first: int,
    last: int | None = None,
    shared: Sequence[int] | None = None,
) -> Replay:
    """Run the model on prefix + tail of every row and record the blocks `first` to `last` (null: the top).

    Column 0 of the recorded hidden states is the first token of every tail. Nothing above `last` is run.
    `shared` says how many leading tokens of each prefix other rows may have too; they are run once.
    """
    last = model.depth - 1 if last is None else last
    past, before = _past(model, prefixes, shared or [0] * len(prefixes), last)
    tail, tail_mask = (x.to(model.device) for x in pad(tails))
    mask = torch.cat([before, tail_mask], dim=1)
    seen: list[tuple[Tensor, _Call]] = []
    with ExitStack() as hooks:
        hooks.enter_context(capture(stop_after=model.block(last)))
        for block in model.blocks[first : last + 1]:
            handle = block.register_forward_pre_hook(_recorder(seen), with_kwargs=True)
            hooks.callback(handle.remove)
        _run(model, tail, mask, past)
    return Replay(model, first, seen[0][0], [call for _, call in seen])


def _past(
    model: Model, prefixes: Sequence[Sequence[int]], shared: Sequence[int], last: int
) -> tuple[Cache | None, Bool[Tensor, "row token"]]:
    """Keys and values of the prefixes in every block up to `last`, and where they have a token."""
    heads: list[tuple[int, ...]] = [
        tuple(prefix[:count]) for prefix, count in zip(prefixes, shared, strict=True)
    ]
    distinct: list[tuple[int, ...]] = list(dict.fromkeys(heads))
    if len(distinct) > len(heads) // 2:  # too few rows share a head for a pass of its own
        heads, distinct = [() for _ in prefixes], [()]
    past, known = _extended(model, distinct, None, torch.zeros(len(distinct), 0, dtype=torch.bool), last)
    row = torch.tensor([distinct.index(head) for head in heads], device=model.device)
    rest = [prefix[len(head) :] for prefix, head in zip(prefixes, heads, strict=True)]
    return _extended(model, rest, None if past is None else _chosen(past, row), known[row], last)


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
    filled = DynamicCache() if past is None else _growing(past)
    with capture(stop_after=model.block(last)):
        _run(model, ids, mask, filled)
    return _frozen(_states(layer) for layer in filled.layers), mask


def _run(
    model: Model, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row known"], past: Cache | None
) -> None:
    """A pass over tokens that follow those of the cache."""
    model.hf.base_model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=position_ids(mask)[:, mask.shape[1] - ids.shape[1] :],
        past_key_values=past,
        use_cache=past is not None,
    )


def _growing(past: Cache) -> Cache:
    """A cache that begins with the states of another and keeps what is added."""
    layers = []
    for layer in past.layers:
        keys, values = _states(layer)
        grown = DynamicLayer()
        grown.lazy_initialization(keys, values)
        grown.keys, grown.values = keys, values
        layers.append(grown)
    return Cache(layers=layers)


def _chosen(past: Cache, rows: Int[Tensor, " kept"]) -> Cache:
    """The states of some rows, or of one row several times."""
    return _frozen((keys[rows], values[rows]) for keys, values in map(_states, past.layers))


def _frozen(states: Iterable[tuple[Tensor, Tensor]]) -> Cache:
    return Cache(layers=[_FrozenLayer(keys, values) for keys, values in states])


def _states(layer: object) -> tuple[Tensor, Tensor]:
    """Keys and values of a filled cache layer."""
    filled = cast(DynamicLayer, layer)
    assert filled.keys is not None and filled.values is not None
    return filled.keys, filled.values


def _recorder(seen: list[tuple[Tensor, _Call]]) -> Callable[[nn.Module, tuple, dict], None]:
    def hook(_block: nn.Module, args: tuple, kwargs: dict) -> None:
        if args:
            seen.append((args[0], _Call(args[1:], kwargs)))
        else:
            rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            seen.append((kwargs["hidden_states"], _Call((), rest)))

    return hook

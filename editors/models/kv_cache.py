"""Keys and values of prompts that are not run again, which blocks read beside those of new tokens."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PrefixLayer(DynamicLayer, ABC):
    """Keys and values of a prefix, read together with new ones, which are not stored."""

    @abstractmethod
    def prefix(self) -> tuple[Tensor, Tensor]:
        """Keys and values of every row's prefix."""

    @abstractmethod
    def select(self, rows: Int[Tensor, " kept"]) -> "PrefixLayer":
        """The prefixes of some rows, or of one row several times."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Prefix and new states side by side."""
        keys, values = self.prefix()
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class FrozenLayer(PrefixLayer):
    """A prefix that never changes."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def prefix(self) -> tuple[Tensor, Tensor]:
        """The constructor's keys and values."""
        return states_of(self)

    def select(self, rows: Int[Tensor, " kept"]) -> PrefixLayer:
        """Copies of the rows."""
        keys, values = states_of(self)
        return FrozenLayer(keys[rows], values[rows])


class LatestLayer(DynamicLayer):
    """Keys and values of the latest pass; every pass replaces them."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """The new states alone."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        return key_states, value_states


class StemLayer(PrefixLayer):
    """A prefix that several rows share and that may be run again; its latest states are read."""

    def __init__(self, stem: LatestLayer, rows: Int[Tensor, " row"]) -> None:
        super().__init__()
        self.stem, self.rows = stem, rows
        keys, values = states_of(stem)
        self.lazy_initialization(keys, values)
        # only for their shape, which the model reads; the states come from the stem
        self.keys, self.values = (state[:1].expand(len(rows), *state.shape[1:]) for state in (keys, values))

    def prefix(self) -> tuple[Tensor, Tensor]:
        """The stem's latest states, for every row."""
        keys, values = states_of(self.stem)
        return keys[self.rows], values[self.rows]

    def select(self, rows: Int[Tensor, " kept"]) -> PrefixLayer:
        """The rows, still with the states of the stem."""
        return StemLayer(self.stem, self.rows[rows])


def extendable(past: Cache) -> Cache:
    """A cache that begins with the states of another and stores the states added to it."""
    layers = []
    for layer in past.layers:
        keys, values = states_of(layer)
        grown = DynamicLayer()
        grown.lazy_initialization(keys, values)
        grown.keys, grown.values = keys, values
        layers.append(grown)
    return Cache(layers=layers)


def select_rows(past: Cache, rows: Int[Tensor, " kept"]) -> Cache:
    """The states of some rows, or of one row several times."""
    return Cache(layers=[cast(PrefixLayer, layer).select(rows) for layer in past.layers])


def frozen(states: Iterable[tuple[Tensor, Tensor]]) -> Cache:
    """A cache of prefixes that never change."""
    return Cache(layers=[FrozenLayer(keys, values) for keys, values in states])


def states_of(layer: object) -> tuple[Tensor, Tensor]:
    """Keys and values of a filled cache layer."""
    filled = cast(DynamicLayer, layer)
    assert filled.keys is not None and filled.values is not None
    return filled.keys, filled.values

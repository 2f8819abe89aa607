"""The weights of a checkpoint as its files hold them, memory-mapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


@dataclass(frozen=True)
class WeightFiles:
    """Tensors of safetensors files by name: views of the files, which must not change.

    The system reads pages when they are needed and drops them when memory is short.
    """

    files: Sequence[Path] = ()

    def find(self, *names: str) -> Tensor | None:
        """The tensor of the first name that exists, in the precision of the file; None if none does."""
        for name in names:
            if name in self._holders:
                return self._holders[name].get_tensor(name)
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> "WeightFiles":
        """The object itself: a copy of a model has the same files."""
        return self

    @cached_property
    def _holders(self) -> dict[str, Any]:
        """The open file of every tensor."""
        opened = [safe_open(file, framework="pt") for file in self.files]
        return {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - files are no mappings

"""Updates of a run kept in its folder, piece by piece, and read again as they were applied.

A piece `00000000-00000100.safetensors` holds the updates of the batches between two counts of edits, factors
as factors: tensor `<batch>:<site>.left` and `.right`. Its metadata tell of every batch the facts' ids, and of
every change its precision and how its factors lay in memory: the layout decides about last bits of products.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from editors.errors import DataError
from editors.updates import Delta, Site, WeightUpdate, factors

Written = Mapping[str, object]
"""What the metadata tell of one batch."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One batch of edits that a run made."""

    facts: tuple[str, ...]
    """Ids of what was edited."""
    held_out: bool
    """Whether the run edited facts of subjects alone that its editor was not trained on."""
    path: Path
    """The piece."""
    index: int
    """Its place there."""
    deltas: Mapping[str, Mapping[str, object]]
    """By site: `dtype`, the precision or none, and `strides` by factor."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The matrices that were changed."""
        return tuple(map(Site.parse, self.deltas))

    @property
    def update(self) -> WeightUpdate:
        """The update on the CPU, read from the file each time."""
        with safe_open(self.path, framework="pt") as stored:
            return {Site.parse(site): self._delta(stored, site, told) for site, told in self.deltas.items()}

    def _delta(self, stored: safe_open, site: str, told: Mapping[str, object]) -> Delta:  # pyright: ignore
        strides, dtype = told["strides"], told["dtype"]
        assert isinstance(strides, dict)
        parts = {
            part: _laid_out(stored.get_tensor(f"{self.index}:{site}.{part}"), stride)
            for part, stride in strides.items()
        }
        return Delta(**parts, dtype=None if dtype is None else getattr(torch, str(dtype)))


def read_updates(folder: Path) -> list[Recorded]:
    """The batches whose updates lie in a folder, in order; an update is read when it is asked for.

    Raises:
        DataError: where there are none, a file is torn, or a piece is missing between others.
    """
    pieces = sorted(folder.glob("*-*.safetensors"))
    if not pieces:
        raise DataError(
            f"{folder.parent} holds no updates; compute the run again with "
            "intervention.keep_updates=true resume=never"
        )
    batches: list[Recorded] = []
    made = 0
    for path in pieces:
        first, end = span(path)
        if first != made:
            raise DataError(
                f"{folder} holds no updates of the edits {made + 1} to {first}: copy the whole folder, or "
                "compute the run again with intervention.keep_updates=true resume=never"
            )
        found = _batches(path)
        made += sum(len(batch.facts) for batch in found)
        if made != end:
            raise DataError(f"{path} holds the updates of {made - first} edits, but its name says otherwise")
        batches += found
    return batches


def span(path: Path) -> tuple[int, int]:
    """Edits before the first and after the last batch of a piece, as its name tells."""
    first, end = path.stem.split("-")
    return int(first), int(end)


def packed(
    batches: Sequence[tuple[Sequence[str], WeightUpdate]], *, held_out: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a piece: for every batch the ids of its facts and its update."""
    tensors: dict[str, Tensor] = {}
    told: list[Written] = []
    for index, (facts, update) in enumerate(batches):
        tensors |= {f"{index}:{name}": tensor.cpu() for name, tensor in factors(update).items()}
        deltas = {str(site): _told(delta) for site, delta in update.items()}
        told.append({"facts": list(facts), "deltas": deltas})
    return tensors, {"batches": json.dumps(told), "held_out": json.dumps(held_out)}


def _told(delta: Delta) -> Mapping[str, object]:
    parts = {"left": delta.left} | ({} if delta.right is None else {"right": delta.right})
    return {
        "dtype": None if delta.dtype is None else str(delta.dtype).removeprefix("torch."),
        "strides": {part: list(tensor.stride()) for part, tensor in parts.items()},
    }


def _batches(path: Path) -> list[Recorded]:
    try:
        with safe_open(path, framework="pt") as stored:
            meta = stored.metadata()
        held_out = bool(json.loads(meta["held_out"]))
        return [
            Recorded(
                facts=tuple(map(str, told["facts"])),
                held_out=held_out,
                path=path,
                index=index,
                deltas=told["deltas"],
            )
            for index, told in enumerate(json.loads(meta["batches"]))
        ]
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is torn or holds no updates ({error}): copy it again, or compute the run again with "
            "intervention.keep_updates=true resume=never"
        ) from error


def _laid_out(tensor: Tensor, stride: Sequence[int]) -> Tensor:
    """The same numbers with the strides that they had; those of a slice are kept too, gaps and all."""
    return torch.empty_strided(tensor.shape, tuple(stride), dtype=tensor.dtype).copy_(tensor)

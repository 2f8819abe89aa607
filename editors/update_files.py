"""Updates of a run kept in its folder, piece by piece, and read again as they were applied.

A piece `00000000-00000100.safetensors` holds the updates of the batches between two counts of edits, factors
as factors: tensor `<batch>:<site>.left` and `.right`. Its metadata hold the ids of every batch's facts, and
precision and strides of every change: the layout of factors decides about the last bits of products.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal, NotRequired, cast

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor
from typing_extensions import TypedDict

from editors.errors import DataError, first_line
from editors.tensor_files import read_metadata, read_tensors
from editors.updates import Delta, Site, WeightUpdate, factors

_COMPUTE_AGAIN = "compute the run again with intervention.keep_updates=true resume=never"
_REMEDY = f"copy it again, or {_COMPUTE_AGAIN}"


_Strides = list[Annotated[int, Field(ge=0)]]


class Strides(TypedDict):
    """Steps in memory of each factor of a change."""

    left: _Strides
    right: NotRequired[_Strides]


class DeltaLayout(TypedDict):
    """How a change was computed and lay in memory."""

    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None
    """The precision to which it was rounded."""
    strides: Strides


class _Entry(TypedDict):
    facts: list[str]
    deltas: dict[Annotated[str, Field(pattern=r"^[a-z_]+\.\d{1,6}$")], DeltaLayout]


_ENTRIES, _FLAG = TypeAdapter(Annotated[list[_Entry], Field(min_length=1)]), TypeAdapter(bool)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One batch of edits that a run made."""

    facts: tuple[str, ...]
    """Ids of the edited facts."""
    held_out: bool
    """Whether the run edited only facts of subjects that its editor was not trained on."""
    path: Path
    """The piece."""
    index: int
    """The place of the batch in the piece."""
    deltas: Mapping[str, DeltaLayout]
    """By site."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The matrices that were changed."""
        return tuple(map(Site.parse, self.deltas))

    @property
    def update(self) -> WeightUpdate:
        """The update on the CPU, read from the file at each access.

        Raises:
            DataError: if the file cannot be read.
        """
        names = [
            f"{self.index}:{site}.{part}" for site, one in self.deltas.items() for part in one["strides"]
        ]
        tensors = read_tensors(self.path, names, remedy=_REMEDY)
        return {Site.parse(site): self._delta(tensors, site) for site in self.deltas}

    def _delta(self, tensors: Mapping[str, Tensor], site: str) -> Delta:
        dtype = self.deltas[site]["dtype"]
        layout = cast("Mapping[str, Sequence[int]]", self.deltas[site]["strides"])
        parts = {
            part: self._laid_out(tensors[f"{self.index}:{site}.{part}"], strides)
            for part, strides in layout.items()
        }
        return Delta(**parts, dtype=None if dtype is None else getattr(torch, dtype))

    def _laid_out(self, tensor: Tensor, strides: Sequence[int]) -> Tensor:
        """The same numbers with the strides that they had, including those of a slice with gaps."""
        try:
            return torch.empty_strided(tensor.shape, tuple(strides), dtype=tensor.dtype).copy_(tensor)
        except RuntimeError as error:
            raise DataError(
                f"{self.path} holds a tensor whose strides {list(strides)} do not fit its shape "
                f"{list(tensor.shape)}: {_REMEDY}"
            ) from error


def read_updates(folder: Path) -> list[Recorded]:
    """The batches whose updates are in a folder, in order; an update is read when it is accessed.

    Raises:
        DataError: if there are none, a file cannot be read, or a piece is missing between others.
    """
    pieces = sorted(folder.glob("*-*.safetensors"))
    if not pieces:
        raise DataError(f"{folder.parent} holds no updates; {_COMPUTE_AGAIN}")
    batches: list[Recorded] = []
    edits = 0
    for path in pieces:
        first, end = span(path)
        if first != edits:
            raise DataError(
                f"{folder} holds no updates of the edits {edits + 1} to {first}: copy the whole folder, or "
                f"{_COMPUTE_AGAIN}"
            )
        piece = _batches(path)
        edits += sum(len(batch.facts) for batch in piece)
        if edits != end:
            raise DataError(f"{path} holds the updates of {edits - first} edits, but its name says otherwise")
        batches += piece
    return batches


def first_edits(batches: Sequence[Recorded], edits: int) -> list[Recorded]:
    """The batches with the first `edits` facts; raises DataError if none of them ends there."""
    ends = list(accumulate(len(batch.facts) for batch in batches))
    if edits not in ends:
        raise DataError(
            f"edits={edits}, but the run made {ends[-1]} edits, {ends[0]} at a time: choose a number at "
            "which one of its batches ended"
        )
    return list(batches[: ends.index(edits) + 1])


def check_undo(batches: Sequence[Recorded], facts: Collection[str]) -> None:
    """Check that these facts can be taken back: an update of several facts only as a whole.

    Raises:
        DataError: for a fact that was not edited, or without the others of its batch.
    """
    edited = {fact for batch in batches for fact in batch.facts}
    if unknown := [fact for fact in facts if fact not in edited]:
        raise DataError(f"undo={unknown[0]}, but the run did not edit that fact: its ledger names the facts")
    for batch in batches:
        chosen = [fact for fact in batch.facts if fact in facts]
        if chosen and len(chosen) < len(batch.facts):
            rest = [fact for fact in batch.facts if fact not in facts]
            raise DataError(
                f"undo={chosen[0]}, but one update wrote that fact together with {len(rest)} others: name "
                f"them too ({','.join(rest[:3])}{',…' if rest[3:] else ''}), or edit with batch_size=1"
            )


def span(path: Path) -> tuple[int, int]:
    """Edits before the first and after the last batch of a piece, from its name; else raises DataError."""
    first, _, end = path.stem.partition("-")
    if not (first.isdecimal() and end.isdecimal()):
        raise DataError(f"{path} is no piece of the updates of a run: remove it from that folder")
    return int(first), int(end)


def packed(
    batches: Sequence[tuple[Sequence[str], WeightUpdate]], *, held_out: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a piece: for every batch the ids of its facts and its update."""
    tensors: dict[str, Tensor] = {}
    entries: list[Mapping[str, object]] = []
    for index, (facts, update) in enumerate(batches):
        tensors |= {f"{index}:{name}": tensor.cpu() for name, tensor in factors(update).items()}
        deltas = {str(site): _layout(delta) for site, delta in update.items()}
        entries.append({"facts": list(facts), "deltas": deltas})
    return tensors, {"batches": json.dumps(entries), "held_out": json.dumps(held_out)}


def _layout(delta: Delta) -> Mapping[str, object]:
    """Precision and strides of a change, for the metadata."""
    parts = {"left": delta.left} | ({} if delta.right is None else {"right": delta.right})
    return {
        "dtype": None if delta.dtype is None else str(delta.dtype).removeprefix("torch."),
        "strides": {part: list(tensor.stride()) for part, tensor in parts.items()},
    }


def _batches(path: Path) -> list[Recorded]:
    metadata = read_metadata(path, remedy=_REMEDY)
    try:
        held_out = _FLAG.validate_json(metadata["held_out"])
        return [
            Recorded(
                facts=tuple(entry["facts"]),
                held_out=held_out,
                path=path,
                index=index,
                deltas=entry["deltas"],
            )
            for index, entry in enumerate(_ENTRIES.validate_json(metadata["batches"]))
        ]
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} holds no updates ({first_line(error)}): {_REMEDY}") from error

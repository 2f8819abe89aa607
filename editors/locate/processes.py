"""Work on facts that is spread over the processes of one run, such as torchrun starts."""

from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

import torch.distributed as dist

from editors.errors import NormscopeError


class Movable(Protocol):
    """Tensors that move to a device together."""

    def to(self, device: str) -> Self:
        """The same on this device."""
        ...


T = TypeVar("T", bound=Movable)


def spread(items: Sequence[int], work: Callable[[Sequence[int]], T]) -> list[tuple[Sequence[int], T]]:
    """Shares of the items and what `work` makes of each, in every process; every process has to call this.

    Each process does one share, every n-th item of n processes, so that items of similar cost are spread
    evenly. What several processes made is on the CPU.

    Raises:
        NormscopeError: that of the first process that raised one, in every process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [(items, work(items))]
    count = dist.get_world_size()
    shares = [items[rank::count] for rank in range(count)]
    mine = shares[dist.get_rank()]
    results: list[T | NormscopeError | None] = [None] * count
    dist.all_gather_object(results, _done(work, mine) if mine else None)
    for result in results:
        if isinstance(result, NormscopeError):
            raise result
    return [(share, result) for share, result in zip(shares, results, strict=True) if share]  # pyright: ignore


def _done(work: Callable[[Sequence[int]], T], share: Sequence[int]) -> T | NormscopeError:
    """An error is returned: raised here, it would leave the others waiting."""
    try:
        return work(share).to("cpu")
    except NormscopeError as error:
        return error

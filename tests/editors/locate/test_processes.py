"""Work that is spread over processes is done once, in order, and fails in all of them if it fails in one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch.distributed as dist

from editors.errors import NormscopeError, NumericsError
from editors.locate.processes import spread


@dataclass(frozen=True)
class Sum:
    value: int
    device: str = ""

    def to(self, device: str) -> "Sum":
        return Sum(self.value, device)


@pytest.fixture
def among(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """What `spread` gives in one of several processes, of which each result is known."""

    def run(
        rank: int, work: Callable[[Sequence[int]], Sum], items: Sequence[int], results: list[Any]
    ) -> list:
        def gather(everything: list[Any], mine: Any) -> None:
            everything[:] = [mine if other == rank else result for other, result in enumerate(results)]

        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: len(results))
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "all_gather_object", gather)
        return spread(items, work)

    return run


def added(items: Sequence[int]) -> Sum:
    return Sum(sum(items))


def test_one_process_does_everything_where_it_is():
    assert spread([5, 6, 7], added) == [([5, 6, 7], Sum(18))]


def test_every_process_has_all_shares(among):
    for rank in range(3):
        others: list[Any] = [Sum(5 + 8), Sum(6), Sum(7)]
        shares = among(rank, added, [5, 6, 7, 8], others)
        assert [share for share, _ in shares] == [[5, 8], [6], [7]]
        assert [result.value for _, result in shares] == [13, 6, 7]
        assert shares[rank][1].device == "cpu"


def test_a_process_without_a_share_does_nothing(among):
    def work(items: Sequence[int]) -> Sum:
        raise AssertionError("called")

    assert among(1, work, [5], [Sum(5), None]) == [([5], Sum(5))]


def test_an_error_of_one_process_is_that_of_all(among):
    error = NumericsError("not finite")

    def failing(items: Sequence[int]) -> Sum:
        raise error

    with pytest.raises(NumericsError):
        among(0, added, [5, 6], [None, error])
    with pytest.raises(NormscopeError, match="not finite"):
        among(1, failing, [5, 6], [Sum(5), None])

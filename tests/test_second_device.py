"""The second device refuses what CUDA refuses, takes what it takes, and counts what makes the host wait."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.second_device import SECOND, SecondDevice

HERE = torch.arange(1.0, 4.0)


@pytest.fixture
def device() -> Iterator[SecondDevice]:
    with SecondDevice() as active:
        yield active


@pytest.mark.parametrize(
    "mistake",
    [
        lambda there: there + HERE,
        lambda there: HERE + there.sum(),
        lambda there: HERE[:1].reshape(()).clone().add_(there.sum()),
        lambda there: torch.cat([there, HERE]),
        lambda there: torch.outer(there, HERE),
        lambda there: HERE[there.long() - 1],
        lambda there: there.index_add(0, torch.tensor([0]), there[:1]),
        lambda there: there.numpy(),
        lambda there: torch.randn(3, device=SECOND, generator=torch.Generator()),
    ],
)
def test_a_mistake_fails(device: SecondDevice, mistake: Callable[[Tensor], object]):
    with pytest.raises(RuntimeError):
        mistake(HERE.to(SECOND))


@pytest.mark.parametrize(
    "usage",
    [
        lambda there: there + torch.tensor(1.0),
        lambda there: there[torch.tensor([0, 2])],
        lambda there: there.index_put((torch.tensor([0]),), torch.tensor(5.0)),
        lambda there: there.masked_fill(there > 1, 0.0),
        lambda there: HERE.to(there) * there,
        lambda there: torch.where(there > 1, 0.1, 1.0),
        lambda there: torch.tensor([1.0, 2.0], device=SECOND).cumsum(dim=0),
    ],
)
def test_what_cuda_takes_makes_nobody_wait(device: SecondDevice, usage: Callable[[Tensor], Tensor]):
    result = usage(HERE.to(SECOND))
    assert result.device == SECOND and not device.waits
    assert torch.equal(result.cpu(), usage(HERE.clone()).cpu())


@pytest.mark.parametrize(
    "question",
    [
        lambda there: float(there[0]),
        lambda there: bool(there.any()),
        lambda there: there.tolist(),
        lambda there: there[there > 1],
        lambda there: (there > 1).nonzero(),
        lambda there: torch.empty(3).copy_(there),
    ],
)
def test_what_makes_the_host_wait_is_counted_once(device: SecondDevice, question: Callable[[Tensor], object]):
    question(HERE.to(SECOND))
    assert device.waits.total() == 1


@pytest.mark.parametrize("inference", [False, True])
def test_numbers_are_those_of_the_cpu(device: SecondDevice, inference: bool):
    rows = torch.randn(4, 3, dtype=torch.float64)
    with torch.inference_mode(inference):
        there = rows.to(SECOND)
        there[1:3] *= 2  # a view is changed in place
        assert torch.equal((there @ there.T).softmax(dim=-1).cpu(), _changed(rows).softmax(dim=-1))


def _changed(rows: Tensor) -> Tensor:
    rows = rows.clone()
    rows[1:3] *= 2
    return rows @ rows.T


def test_gradients_are_those_of_the_cpu(device: SecondDevice):
    there, here = (HERE.to(place, copy=True).requires_grad_() for place in (SECOND, "cpu"))
    for leaf in (there, here):
        (leaf[leaf > 1] ** 3).sum().backward()
    assert there.grad is not None and here.grad is not None and there.grad.device == SECOND
    assert torch.equal(there.grad.cpu(), here.grad)


def test_it_exists_only_inside_the_block():
    with pytest.raises(NotImplementedError):
        torch.zeros(2, device=SECOND)

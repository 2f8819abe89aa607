"""Rounding and pruning do what they say to every matrix, and edits before them are measured after them."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from editors.errors import ConfigError
from editors.updates import sites_of
from pipeline.interventions.compression import Pruning, Quantization
from pipeline.launch import launch
from tests.tiny import tiny_model

Composed = Callable[..., DictConfig]


def drawn(rows: int = 6, width: int = 40) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, None), (4, 10), (2, 8)])
def test_rounded_weights_lie_on_a_grid_no_farther_than_half_a_step(bits: int, group: int | None):
    weight, method = drawn(), Quantization(bits=bits, group=group)
    rounded = method.compressed(weight)
    groups = weight.view(6, -1, group or 40)
    step = groups.abs().amax(dim=2, keepdim=True) / (2 ** (bits - 1) - 1)
    places = rounded.view(groups.shape) / step
    torch.testing.assert_close(places, places.round())
    assert places.abs().max() <= 2 ** (bits - 1) - 1 + 1e-9
    assert ((rounded - weight).view(groups.shape).abs() <= step / 2 + 1e-12).all()
    torch.testing.assert_close(method.compressed(rounded), rounded)


def test_more_bits_and_smaller_groups_are_closer():
    weight = drawn()
    errors = [
        float((Quantization(bits=bits, group=group).compressed(weight) - weight).norm())
        for bits, group in ((3, None), (4, None), (4, 10), (8, None))
    ]
    assert errors == sorted(errors, reverse=True)
    assert torch.equal(Quantization().compressed(torch.zeros(2, 4)), torch.zeros(2, 4))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_the_smallest_entries_are_removed_and_no_other_changes(share: float):
    weight = drawn()
    pruned = Pruning(share=share).compressed(weight)
    gone = pruned == 0
    assert float(gone.double().mean()) == pytest.approx(share, abs=0.01)
    assert torch.equal(pruned[~gone], weight[~gone])
    assert weight[gone].abs().max() < weight[~gone].abs().min()


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_every_matrix_of_the_blocks_changes_and_nothing_else(family: str, composed: Composed, tmp_path: Path):
    model = tiny_model(family, double=False)
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    for site in sites_of(range(model.depth), model.sites):
        model.write(site, Pruning(share=0.5).compressed(model.current(site)))
    changed = {name for name, value in model.hf.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(".h." in name or ".layers." in name for name in changed)
    assert all(before[name].dim() == 2 for name in changed)


def test_edits_are_measured_again_after_a_later_part(composed: Composed, tmp_path: Path):
    config = composed(
        "intervention=edit_then", "intervention.parts.second.bits=2", "edits=3", "stage=[norms,efficacy]"
    )
    launch(config, tmp_path)
    (run,) = (tmp_path / "test").glob("*-*")
    metrics = pd.read_json(run / "metrics.jsonl", lines=True)
    assert sorted(set(metrics["part"])) == [0, 1]
    assert {"edits", "steps"} <= {*metrics["unit"]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantization(bits=1), r"intervention\.bits=1, but it has to be between 2 and 16"),
        (lambda: Quantization(group=0), r"intervention\.group=0, but it has to be positive"),
        (lambda: Quantization(group=7).compressed(drawn()), r"group=7 does not divide the 40 inputs"),
        (lambda: Pruning(share=1.0), r"intervention\.share=1\.0, but it has to lie between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], object], message: str):
    with pytest.raises(ConfigError, match=message):
        make()

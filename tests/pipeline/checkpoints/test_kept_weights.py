"""Kept weights that no run writes are refused before a model is exported."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from editors.errors import DataError
from pipeline.checkpoints.kept_weights import kept_changes
from tests.tiny import tiny_model

NAME = "transformer.h.0.mlp.c_proj.weight"


def change(folder: Path, value: Tensor) -> Tensor:
    """The matrix of a model after it got the kept weights."""
    save_file({NAME: value}, folder / "weights.safetensors")
    model = tiny_model(double=False)
    kept_changes(folder)(model)
    return model.hf.get_parameter(NAME)


def ones() -> Tensor:
    return torch.ones_like(tiny_model(double=False).hf.get_parameter(NAME))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_in_every_precision_of_a_run_are_used(tmp_path: Path, dtype: torch.dtype):
    assert torch.equal(change(tmp_path, 2 * ones().to(dtype)), 2 * ones())


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_weights_of_another_type_are_refused(tmp_path: Path, dtype: torch.dtype):
    with pytest.raises(DataError, match=f"{NAME} are {str(dtype)[6:]}, which no run writes"):
        change(tmp_path, ones().to(dtype))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e300])
def test_weights_that_are_not_finite_in_the_model_are_refused(tmp_path: Path, number: float):
    value = ones().double()
    value[3, 2] = number
    with pytest.raises(DataError, match=f"{NAME} are not finite"):
        change(tmp_path, value)

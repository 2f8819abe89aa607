"""The weights of a checkpoint: as its files hold them, memory-mapped, and whether a loaded model has all.

transformers fills a parameter that the files lack with random numbers, and casts whole numbers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from editors.errors import ModelError, listed

_BUFFERS = re.compile(r"(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$|position_ids$")
"""Constants that older versions of transformers saved with the weights."""
_OLD_NAMES = {"embed_out.": "lm_head."}
"""Beginnings of names that transformers replaces."""
_FLOATING = ("F64", "F32", "F16", "BF16")
"""Precisions that hold the weights themselves, and no codes of them."""
ZERO = "zero throughout"
_ON_PURPOSE = "; a model with weights that are zero on purpose loads with +model.allow_zero=true"


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

    @property
    def precisions(self) -> dict[str, str]:
        """The precision of every tensor in the words of the format, such as `F16`."""
        return {name: str(file.get_slice(name).get_dtype()) for name, file in self._holders.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "WeightFiles":
        """The object itself: a copy of a model has the same files."""
        return self

    @cached_property
    def _holders(self) -> dict[str, Any]:
        """The open file of every tensor."""
        opened = [safe_open(file, framework="pt") for file in self.files]
        return {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - files are no mappings


def check_loaded(
    model: "transformers.PreTrainedModel",
    report: Mapping[str, Any],
    path: str,
    files: Sequence[Path],
    *,
    allow_zero: bool = False,
) -> None:
    """Compare a model with transformers' report on its loading and with its files.

    Raises:
        ModelError: one that names all tensors that are missing, unexpected, of another shape, not of a
            floating-point type, not finite, or (unless `allow_zero`) zero throughout; also for two tensors
            of one parameter, and an output embedding that is to be the input embedding and is not.
    """
    mismatched = {
        name: f"{name} {list(there)} for {list(here)}" for name, there, here in report["mismatched_keys"]
    }
    missing = set(report["missing_keys"])
    precisions = WeightFiles(files).precisions
    faults = {
        "missing": missing - set(mismatched),
        "unexpected": {name for name in report["unexpected_keys"] if not _BUFFERS.search(name)},
        "of another shape": set(mismatched.values()),
        "not floating-point": {
            f"{name} ({kind})"
            for name, kind in precisions.items()
            if kind not in _FLOATING and not _BUFFERS.search(name)
        },
        "of one parameter under two names": _doubles(precisions, model.base_model_prefix),
        **_faults_of_values(model, {*missing, *mismatched}, allow_zero=allow_zero),
        "to be tied to the embedding, and different from it": _untied(model),
    }
    sentences = [f"{fault}: {listed(sorted(names))}" for fault, names in faults.items() if names]
    if sentences:
        raise ModelError(
            f"the weights in {path} are not those of the model that its config.json describes: "
            f"{'; '.join(sentences)}; download or save it again as a whole, or correct config.json"
            f"{_ON_PURPOSE if faults[ZERO] else ''}"
        )


def _doubles(names: Iterable[str], prefix: str) -> set[str]:
    """Names that stand for one parameter, joined by *and*; transformers would take one of the tensors."""
    same: dict[str, list[str]] = {}
    for name in sorted(names):
        if not _BUFFERS.search(name):
            same.setdefault(_present_name(name.removeprefix(f"{prefix}.")), []).append(name)
    return {" and ".join(group) for group in same.values() if len(group) > 1}


def _present_name(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _untied(model: "transformers.PreTrainedModel") -> set[str]:
    """The name of the output embedding if transformers found the file's to contradict the configuration."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or not getattr(model.config, "tie_word_embeddings", False):
        return set()
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if module is head and head.weight is not embedding.weight
    }


def _faults_of_values(
    model: "transformers.PreTrainedModel", absent: set[str], *, allow_zero: bool
) -> dict[str, set[str]]:
    infinite, zero = set(), set()
    for name, parameter in model.named_parameters():
        if name in absent:
            continue
        low, high = _bounds(parameter.detach())
        if not (low.isfinite() and high.isfinite()):
            infinite.add(f"{name} ({str(parameter.dtype).removeprefix('torch.')})")
        elif low == high == 0 and name.endswith("weight") and not allow_zero:
            zero.add(name)
    return {"not finite": infinite, ZERO: zero}


def _bounds(parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest entry; NaN if one entry is."""
    if not parameter.numel():
        return torch.ones(()), torch.ones(())
    return torch.aminmax(parameter)

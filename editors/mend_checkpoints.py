"""Where a training of MEND's hypernetwork goes on: its tensors and numbers in one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from editors.errors import DataError

State = Mapping[str, Tensor]


def write_checkpoint(path: Path, groups: Mapping[str, State], about: Mapping[str, object]) -> None:
    """Write groups of named tensors, and what JSON can hold; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{group}.{key}": value.detach().cpu().contiguous()
        for group, state in groups.items()
        for key, value in state.items()
    }
    beside = path.with_name(f"{path.name}.writing")
    save_file(tensors, beside, metadata={"training": json.dumps(about)})
    beside.replace(path)


def read_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What `write_checkpoint` wrote.

    Raises:
        DataError: for a file that it did not write.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt", device=str(device)) as stored:
            about = json.loads((stored.metadata() or {})["training"])
            for name in stored.keys():  # noqa: SIM118
                group, key = name.split(".", 1)
                groups.setdefault(group, {})[key] = stored.get_tensor(name)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is no checkpoint of a training ({error}); delete it to begin anew"
        ) from error
    return groups, about


def flattened(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers of each parameter, by the parameter's number and a name."""
    states = optimiser.state_dict()["state"].items()
    return {f"{number}.{name}": value for number, state in states for name, value in state.items()}


def load_flattened(optimiser: torch.optim.Optimizer, state: State) -> None:
    """Take over what `flattened` gave."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        number, name = key.split(".")
        found.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": found})

"""Hypernetworks on disk: our own files, which name their model and matrices, and the published code's."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from editors.errors import ConfigError, DataError, first_line
from editors.methods.mend.network import LAYERS, Design, Hypernetwork, Shapes
from editors.models.model import Model
from editors.moments.tensor_cache import hashed
from editors.tensor_files import read_sealed, write_sealed
from editors.updates import Site

_TRAIN_AGAIN = (
    "it is no hypernetwork that this version wrote; train it again or set editor.path to another file"
)

State = Mapping[str, Tensor]

PUBLISHED = (
    ("u", "u"),
    ("v", "v"),
    ("bias", "bias"),
    ("scale", "mode_scale.weight"),
    ("shift", "mode_shift.weight"),
)
"""Our and the published names of a layer's tensors; the last two exist only if networks are shared."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The training data and validation results of a hypernetwork, as values that JSON can hold."""

    model: str
    digest: str
    """`Model.digest` of the model before any edit."""
    trained_on: Mapping[str, object] = field(default_factory=dict)
    """Data set, share of its subjects, number of facts, settings."""
    validation: Mapping[str, float] = field(default_factory=dict)
    """The best figures on held-out facts."""


def shapes_of(model: Model, sites: Sequence[Site]) -> dict[Site, tuple[int, int]]:
    """(in, out) of every matrix."""
    shapes = {site: model.weight(site.name, site.layer).shape for site in sites}
    return {site: (wide, out) for site, (out, wide) in shapes.items()}


def name_of(model: str, digest: str, sites: Iterable[Site], design: Design, training: object) -> str:
    """The name of the file of a hypernetwork among others: the model's, and a hash of what it depends on."""
    described = {
        "digest": digest,
        "sites": [str(site) for site in sites],
        "design": asdict(design),
        "training": training,
    }
    return f"{model}-{hashed(described)}.safetensors"


def save(network: Hypernetwork, path: Path, origin: Origin) -> None:
    """Write a hypernetwork; the file appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {str(site): list(shape) for site, shape in network.shapes.items()}
    metadata = {"origin": asdict(origin), "shapes": shapes, "design": asdict(network.design)}
    write_sealed(path, network.state_dict(), {"hypernetwork": json.dumps(metadata)})


def load(path: Path) -> tuple[Hypernetwork, Origin]:
    """The hypernetwork and its origin from a file of `save`.

    Raises:
        DataError: for any other file.
    """
    try:
        state, text = read_sealed(path, remedy=_TRAIN_AGAIN)
        metadata = json.loads(text["hypernetwork"])
        shapes = {Site.parse(site): tuple(shape) for site, shape in metadata["shapes"].items()}
        network = Hypernetwork(shapes, Design(**metadata["design"]))
        network.load_state_dict(state)
        return network.eval(), Origin(**metadata["origin"])
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}): {_TRAIN_AGAIN}") from error


def load_for(
    model: Model, shapes: Shapes, path: Path, design: Design, *, by_name: bool = False
) -> Hypernetwork:
    """The hypernetwork of a file, if it is for this model; a `.pt` file is one of the published code.

    With `by_name` the file was found by `name_of`, so that its content has to be what its name says.

    Raises:
        ConfigError: for one that was trained for another model or other matrices.
        DataError: for a file that cannot be read, or holds something else than its name says.
    """
    if path.suffix == ".pt":
        return from_published(read_published(path), model, shapes, design)
    network, origin = load(path)
    training = origin.trained_on.get("training")
    if by_name and path.name != name_of(model.name, origin.digest, network.shapes, network.design, training):
        raise DataError(
            f"{path} holds a hypernetwork of another model or other settings than its name says: delete it, "
            "and train it again"
        )
    if origin.digest != model.digest:
        raise ConfigError(
            f"the hypernetwork in {path} was trained on {origin.model} (digest {origin.digest}), but this is "
            f"{model.name} (digest {model.digest}): its updates would be noise here; train one for this model"
        )
    if list(network.shapes.items()) != list(shapes.items()):
        raise ConfigError(
            f"the hypernetwork in {path} edits {_listed(network.shapes)}, but the editor {_listed(shapes)}: "
            "set layers.edit and editor.matrices to the former, or train one for the latter"
        )
    return network


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of the published code, by their published names.

    Read without running any code that the file may hold.

    Raises:
        DataError: if the file holds more than tensors, or no hypernetwork.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as tensors alone ({first_line(error)}); whoever trusts it can reduce it "
            "once to {'model': {name: tensor}} with the names 'mend.…' and 'edit_lrs' and save that"
        ) from error
    state = stored.get("model", stored) if isinstance(stored, dict) else {}
    named = {**(stored if isinstance(stored, dict) else {}), **(state if isinstance(state, dict) else {})}
    tensors = {str(key): value for key, value in named.items() if isinstance(value, Tensor)}
    if "edit_lrs" not in tensors or not any(key.startswith("mend.") for key in tensors):
        raise DataError(
            f"{path} holds no tensors 'mend.…' and 'edit_lrs', which the published code always writes"
        )
    return tensors


def from_published(state: Mapping[str, Tensor], model: Model, shapes: Shapes, design: Design) -> Hypernetwork:
    """A hypernetwork from published names, for matrices in the order of the published `inner_params`.

    There, a group is named by its shape, inputs first, or by its parameter with `#` for dots; u is x, v is δ.

    Raises:
        ConfigError: if a tensor is missing or its shape differs from the design.
    """
    network = Hypernetwork(shapes, design)
    given: dict[str, Tensor] = {"step_sizes": _published(state, "edit_lrs")}
    for group, (first, *_) in network.members().items():
        prefix = f"mend.{_published_group(model, first, shapes[first], design)}"
        given |= {f"groups.{group}.{key}": value for key, value in _statistics(state, prefix).items()}
        for part, name in enumerate(("mlp",) if design.combine else ("mlp1", "mlp2")):
            for layer in range(LAYERS):
                for ours, theirs in PUBLISHED if design.shared else PUBLISHED[:3]:
                    key = f"groups.{group}.parts.{part}.{layer}.{ours}"
                    given[key] = _published(state, f"{prefix}.{name}.layers.{layer}.{theirs}")
    for key, value in network.state_dict().items():
        if given[key].shape != value.shape:
            raise ConfigError(
                f"the published hypernetwork has {key} of shape {tuple(given[key].shape)}, but editor.rank="
                f"{design.rank} and {_listed(shapes)} ask for {tuple(value.shape)}; set them as trained"
            )
    network.load_state_dict(given)
    return network.eval()


def _published_group(model: Model, first: Site, shape: tuple[int, int], design: Design) -> str:
    if design.shared:
        return str(shape)
    path = f"{model.family.blocks}.{first.layer}.{model.family.sites[first.name]}.weight"
    return path.replace(".", "#")


def _statistics(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Count, mean and square of x and δ together."""
    statistics = {
        ours: torch.cat([_published(state, f"{prefix}.{part}_{theirs}") for part in "uv"]).double()
        for ours, theirs in (("mean", "mean"), ("square", "s"))
    }
    return statistics | {"count": _published(state, f"{prefix}.k").double().reshape(())}


def _published(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise ConfigError(
            f"the published hypernetwork has no {key}, but {', '.join(list(state)[:3])}, …: set layers.edit, "
            "editor.matrices, editor.shared and editor.combine as it was trained"
        )
    return state[key]


def _listed(shapes: Shapes) -> str:
    return ", ".join(f"{site} ({wide}x{out})" for site, (wide, out) in shapes.items())


def write_checkpoint(path: Path, groups: Mapping[str, State], metadata: Mapping[str, object]) -> None:
    """Write groups of named tensors and JSON metadata; the file appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{group}.{key}": value for group, state in groups.items() for key, value in state.items()}
    write_sealed(path, tensors, {"training": json.dumps(metadata)})


def read_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Groups of tensors and metadata from a file of `write_checkpoint`.

    Raises:
        DataError: for any other file.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    tensors, text = read_sealed(path, remedy="delete it to start again")
    try:
        metadata = json.loads(text["training"])
        for name, tensor in tensors.items():
            group, key = name.split(".", 1)
            groups.setdefault(group, {})[key] = tensor.to(device)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} is no checkpoint of a training ({error}); delete it to start again"
        ) from error
    return groups, metadata


def flat_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as tensors named `<number of the parameter>.<name>`."""
    states = optimiser.state_dict()["state"].items()
    return {f"{number}.{name}": value for number, state in states for name, value in state.items()}


def load_flat_state(optimiser: torch.optim.Optimizer, state: State) -> None:
    """Load the tensors of `flat_state`."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        number, name = key.split(".")
        states.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": states})

"""Builds the objects of a run from its configuration, after all problems have been reported at once.

Nothing is instantiated unless every `_target_` is named in `conf/` or lies in a plug-in, every key is an
argument of its constructor and has the right type, and every argument without a default has a value.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beartype.door import is_bearable

from analysis.results.run_files import one_line
from analysis.stages.base import Stage
from analysis.stages.signatures import Judge
from editors.base import Editor
from editors.errors import ConfigError
from editors.models.loading import Checkpoint
from editors.regularizers.base import Regularizer
from pipeline.config.allowed_classes import plugin_problems
from pipeline.config.instances import instance
from pipeline.config.schema import KEYS, NO_LAYERS, ResolvedConfig
from pipeline.config.validation import SEEDS, node_problems, unknown_key_message
from pipeline.data.sources import FactSource
from pipeline.interventions import distributed
from pipeline.interventions.base import Intervention
from pipeline.tracking.base import Tracker


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The objects of a run, built from its configuration."""

    model: Checkpoint
    data: FactSource
    intervention: Intervention
    stages: Sequence[Stage]
    judges: Sequence[Judge] = ()
    tracker: Tracker


_KINDS = {
    "model": Checkpoint,
    "data": FactSource,
    "editor": Editor,
    "regularizer": Regularizer,
    "intervention": Intervention,
    "stage": Stage | Judge,
    "tracker": Tracker,
    "objective": object,  # its kind is checked where it is built
}
"""The kind of object in each group of a configuration."""
RESUME = ("auto", "never", "force")


def build(plain: ResolvedConfig) -> Parts:
    """The objects of a run, built after the whole configuration has been checked.

    Raises:
        ConfigError: with all problems, one per line.
    """
    # an editor is part of its intervention, and regularizers of their editor: one mistake, one line
    _raise_any(_problems(plain))
    observers = [instance(node) for node in plain["stage"].values()]
    return Parts(
        model=instance(plain["model"]),
        data=instance(plain["data"]),
        intervention=instance(plain["intervention"]),
        stages=[observer for observer in observers if isinstance(observer, Stage)],
        judges=[observer for observer in observers if isinstance(observer, Judge)],
        tracker=instance(plain["tracker"]),
    )


def build_data(plain: ResolvedConfig) -> FactSource:
    """Only the facts of a configuration; raises ConfigError like `build`."""
    _raise_any(node_problems("data", plain["data"], [], hint=FactSource))
    return instance(plain["data"])


def build_model(plain: Mapping[str, Any], plugins: Sequence[str] = ()) -> Checkpoint:
    """Only the model of a stored configuration; raises ConfigError like `build`.

    `plugins` are the modules that the user allows now; those of the stored configuration are ignored.
    """
    node = plain.get("model")
    _raise_any(plugin_problems(plugins))
    _raise_any([*_references("model", node), *node_problems("model", node, plugins, hint=Checkpoint)])
    model = instance(node)
    if not isinstance(model, Checkpoint):
        raise ConfigError("the configuration has no model")
    return model


def _raise_any(problems: Iterable[str]) -> None:
    """Raise a ConfigError with all problems if there are any, each of them one line whatever it quotes."""
    if lines := dict.fromkeys(map(one_line, problems)):
        raise ConfigError("\n".join(lines))


def _references(path: str, node: object) -> Iterator[str]:
    """Messages about interpolations in a stored configuration, whose values are plain."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _references(f"{path}.{key}", value)
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _references(f"{path}.{place}", value)
    elif isinstance(node, str) and "${" in node:
        yield f"{path}={node} is an interpolation, and the configuration of a run holds none"


def _problems(plain: ResolvedConfig) -> Iterator[str]:
    for key in plain:
        if key not in KEYS:
            yield unknown_key_message(key, KEYS, "a configuration")
    if isinstance(plain["seed"], int) and not 0 <= plain["seed"] < SEEDS:
        yield f"seed={plain['seed']} has to be at least 0 and below 2**32"
    for key in ("seed", "edits", "batch_size"):
        if plain[key] is None and key != "seed":
            continue
        if not isinstance(plain[key], int) or isinstance(plain[key], bool):
            yield f"{key}={plain[key]} has to be a whole number"
    threads = plain["launcher"].get("threads")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        yield f"launcher.threads={threads} has to be a positive whole number, or null"
    if plain["resume"] not in RESUME:
        yield f"resume={plain['resume']} has to be one of {', '.join(RESUME)}"
    if not isinstance(plain["keep_weights"], bool | None):
        yield f"keep_weights={plain['keep_weights']} has to be true or false"
    if plain["keep_weights"] and distributed.count() > 1 and plain["intervention"].get("sharding"):
        yield "keep_weights=true, but the weights are sharded over several processes: leave out sharding"
    plugins = [] if plain["plugins"] is None else plain["plugins"]
    if problems := list(plugin_problems(plugins)):
        yield from problems
        return  # classes of a plug-in cannot be checked without it
    for group, kind in _KINDS.items():
        yield from node_problems(group, plain[group], plugins, hint=kind)
    for name, node in (plain["regularizer"] or {}).items():
        if not isinstance(node, dict):
            yield f"regularizer.{name}={node} is not a regularizer: choose one of conf/regularizer"
    if plain["layers"] != NO_LAYERS:
        yield from _layer_problems(plain)


def _layer_problems(plain: ResolvedConfig) -> Iterator[str]:
    edit, depth = plain["layers"]["edit"], plain["model"].get("depth")
    if isinstance(depth, int) and depth < 1:
        yield f"model.depth={depth} has to be positive"
    elif edit == []:
        yield "layers.edit is empty; name at least one block"
    elif not is_bearable(edit, list[int]) or any(isinstance(layer, bool) for layer in edit):
        yield f"layers.edit={edit} has to be a list of block numbers, such as layers.edit=[0,1]"
    elif len(set(edit)) < len(edit):
        yield f"layers.edit={edit} names a block twice"
    elif isinstance(depth, int) and any(not 0 <= layer < depth for layer in edit):
        yield f"layers.edit={edit}, but model={plain['model']['name']} has {depth} blocks (0..{depth - 1})"

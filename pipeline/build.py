"""Builds the objects of a run from its configuration, after all problems have been reported at once.

Nothing is instantiated unless every `_target_` is named in `conf/` or lies in a plug-in, every key is an
argument of its constructor and has the right type, and every argument without a default has a value.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beartype.door import is_bearable
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from analysis.stages.base import Stage
from analysis.stages.signatures import Judge
from editors.errors import ConfigError, NormscopeError
from editors.models.loading import Checkpoint
from editors.text_files import local_path
from pipeline.config.allowed_classes import plugin_problems
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


RESUME = ("auto", "never", "force")


def build(plain: ResolvedConfig) -> Parts:
    """The objects of a run, built after the whole configuration has been checked.

    Raises:
        ConfigError: with all problems, one per line.
    """
    # an editor is part of its intervention, and regularizers of their editor: one mistake, one line
    problems = dict.fromkeys(_problems(plain))
    if problems:
        raise ConfigError("\n".join(problems))
    observers = [_instance(node) for node in plain["stage"].values()]
    return Parts(
        model=_instance(plain["model"]),
        data=_instance(plain["data"]),
        intervention=_instance(plain["intervention"]),
        stages=[observer for observer in observers if isinstance(observer, Stage)],
        judges=[observer for observer in observers if isinstance(observer, Judge)],
        tracker=_instance(plain["tracker"]),
    )


def build_model(plain: Mapping[str, Any], plugins: Sequence[str] = ()) -> Checkpoint:
    """Only the model of a stored configuration; raises ConfigError like `build`.

    `plugins` are the modules that the user allows now; those of the stored configuration are ignored.
    """
    problems = list(plugin_problems(plugins)) or list(node_problems("model", plain.get("model"), plugins))
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    node = plain.get("model")
    model = _instance(node) if isinstance(node, Mapping) else None
    if not isinstance(model, Checkpoint):
        raise ConfigError("the configuration has no model")
    return model


def _instance(node: object) -> Any:
    """The object of a node; a NormscopeError of its constructor is raised as it is."""
    try:
        return instantiate(_with_home(node), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, NormscopeError):
            raise cause from error
        raise


def _with_home(node: object) -> object:
    """The node with `~/` at the beginning of a value replaced by the home folder.

    Only here, so that the name of a run is the same on every machine.
    """
    if isinstance(node, Mapping):
        return {key: _with_home(value) for key, value in node.items()}
    return str(local_path(node)) if isinstance(node, str) and node.startswith("~/") else node


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
    for group in ("model", "data", "editor", "regularizer", "intervention", "stage", "tracker", "objective"):
        yield from node_problems(group, plain[group], plugins)
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

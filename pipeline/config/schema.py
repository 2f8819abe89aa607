"""The configuration of a run, resolved to plain values; without torch, which finished runs do not need."""

import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from editors.errors import ConfigError
from pipeline.config.hydra_internals import unregister_replaced
from pipeline.config.models.missing import check_complete
from pipeline.config.overrides.quoting import quoted
from pipeline.config.overrides.refused import sentence
from pipeline.config.resolvers import register_resolvers
from pipeline.paths import CONF

ResolvedConfig = dict[str, Any]
"""A configuration with all interpolations filled in: plain dicts, lists, strings and numbers."""

KEYS = (
    "name seed edits batch_size steps model training moments editor regularizer layers data text "
    "intervention stage objective tracker launcher experiment resume keep_weights plugins"
).split()
"""Top level of every configuration."""
USED = ("edits", "batch_size", "steps", "editor", "regularizer", "moments", "layers")
"""Keys that an intervention need not use; unused keys do not distinguish runs."""
NO_LAYERS: ResolvedConfig = {"edit": []}
"""The layers that stages read if the intervention chooses none."""
_NO_VALUE = re.compile(r"Missing mandatory value: ([\w.]+)")
_RAISED = re.compile(r"^(Config|Data|Model)Error raised while resolving interpolation: ")
_REFERENCE = re.compile(r"\$\{\s*(\w+)\s*[.}\[]")
"""An interpolation of the top level such as `${steps}` or `${layers.edit}`; the first key of its path."""


def resolved(config: DictConfig, *, in_python: bool = False) -> ResolvedConfig:
    """The plain values of a composed configuration, without Hydra's and the keys that its run does not use.

    `config` itself is not changed. With `in_python` an error names arguments of Python in place of options.

    Raises:
        ConfigError: for a model–editor pair without values, or an interpolation of a missing key.
    """
    used = _used(config)
    reduced = _reduced(config, used)
    if "layers" in used:
        check_complete(reduced, in_python=in_python)
    try:
        plain = cast(ResolvedConfig, OmegaConf.to_container(reduced, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(_sentence(error)) from error
    plain["training"] = None  # the intervention holds all values that it uses
    for key in KEYS:
        plain.setdefault(key, None)
    return plain


def composed(
    overrides: Sequence[str], groups: Sequence[str], *, may_lack_values: bool = False
) -> dict[str, Any]:
    """The resolved nodes of some groups of the configuration with these overrides.

    With `may_lack_values` a missing value is `???`; otherwise it is a ConfigError, as is an override that
    Hydra refuses.
    """
    with _composition(overrides) as config:
        return {
            group: OmegaConf.to_container(config[group], resolve=True, throw_on_missing=not may_lack_values)
            for group in groups
        }


def composed_run(overrides: Sequence[str]) -> ResolvedConfig:
    """The resolved configuration of one run with these overrides.

    Raises ConfigError for an override that Hydra refuses, and for values that are missing.
    """
    with _composition(overrides) as config:
        return resolved(config)


@contextmanager
def _composition(overrides: Sequence[str]) -> Iterator[DictConfig]:
    """The configuration with these overrides; what Hydra refuses, also while it is read, is a ConfigError."""
    register_resolvers()
    unregister_replaced()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", quoted(overrides))
        yield config
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(sentence(error, overrides) or _sentence(error)) from error


def _sentence(error: Exception) -> str:
    """The first line of an error and its cause; that of our functions is a sentence already."""
    first = str(error).splitlines()[0]
    if missing := _NO_VALUE.search(first):
        return f"{missing[1]} has no value: add {missing[1]}={'FILE' if missing[1].endswith('path') else '…'}"
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return _RAISED.sub("", first) + cause


def _used(config: DictConfig) -> set[str]:
    """`intervention`, and the keys of `USED` to which it refers directly or through other keys."""
    nodes = cast(dict[str, object], OmegaConf.to_container(config, resolve=False))
    references = {key: set(_REFERENCE.findall(str(node))) for key, node in nodes.items()}
    used: set[str] = set()
    new = {"intervention"}
    while new:
        used |= new
        new = set().union(*(references.get(key, ()) for key in new)) & set(USED) - used
    return used


def _reduced(config: DictConfig, used: set[str]) -> DictConfig:
    """A copy without Hydra's part, unused keys, and regularizers and stages that have no class.

    Experiments set values of regularizers and stages even if a run does not use these.
    """
    reduced = cast(DictConfig, pickle.loads(pickle.dumps(config)))  # half the time of a deep copy
    OmegaConf.set_readonly(reduced, False)
    OmegaConf.set_struct(reduced, False)
    reduced["name"] = reduced.get("name")  # may refer to Hydra's part
    reduced.pop("hydra", None)
    for key in set(USED) - used:
        reduced[key] = NO_LAYERS if key == "layers" else None
    for group in ("regularizer", "stage"):
        nodes = reduced.get(group)
        if not isinstance(nodes, DictConfig):
            continue  # values that cannot be regularizers are reported later, with all other problems
        for name, node in list(nodes.items()):
            if isinstance(node, DictConfig) and "_target_" not in node:
                del nodes[name]
    return reduced

"""Makes compositions in the tests cheap: what they have in common is done once in a process."""

import pickle
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigResult

from pipeline.config.hydra_internals import ConfigRepository, share_composition
from tests.paths import CONF

UNCHANGING = (f"file://{CONF}", "pkg://hydra.conf")
"""Folders that no test changes; those of a test, and what plug-ins register, are read every time."""


def keep_conf(patch: pytest.MonkeyPatch) -> None:
    """Let Hydra take files of `UNCHANGING`, and what is composed of them, from memory."""
    # by the folders in which Hydra searches, since an earlier one may have a file of the same name
    memory: dict[Hashable, Any] = {}
    load = ConfigRepository.load_config

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        key = _searched(self), config_path
        if key in memory:
            return pickle.loads(memory[key])  # Hydra changes the result; this is twice as fast as a deep copy
        result = load(self, config_path)
        if result is not None and result.path in UNCHANGING:
            memory[key] = pickle.dumps(result)
        return result

    def kept(self: ConfigRepository, key: Hashable, make: Callable[[], Any]) -> Any:
        searched = _searched(self)
        if not {path for path in searched if not path.startswith("structured:")} <= {*UNCHANGING}:
            return make()
        complete = searched, key, tuple(_registered(ConfigStore.instance().repo))
        if complete not in memory:
            memory[complete] = make()
        return memory[complete]

    patch.setattr(ConfigRepository, "load_config", load_config)
    patch.setattr(ConfigRepository, "kept", kept, raising=False)
    share_composition()


def _searched(repository: ConfigRepository) -> tuple[str, ...]:
    return tuple(f"{source.scheme()}://{source.path}" for source in repository.get_sources())


def _registered(stored: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, int]]:
    """Names and identities of what plug-ins and tests registered with Hydra."""
    for name, node in stored.items():
        if isinstance(node, Mapping):
            yield from _registered(node, f"{group}/{name}")
        else:
            yield f"{group}/{name}", id(node.node)

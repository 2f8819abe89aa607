"""Keeps configuration files as they were first read, so that a job composes to the run that was planned."""

import copy
from collections.abc import Callable
from typing import Any, Self

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from hydra.types import HydraContext

from pipeline.config.hydra_internals import ConfigRepository, use_repository


class CachedConfigRepository(ConfigRepository):
    """Configuration files, each read once; copies, which Hydra makes and processes get, share them."""

    def __init__(self, path: ConfigSearchPath) -> None:
        super().__init__(path)
        self._cache: dict[tuple[str, str], Any] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        """The content of the file when it was first read."""
        # a copy, because Hydra changes the result
        return copy.deepcopy(self._cached("load", super().load_config, config_path))

    def config_exists(self, config_path: str) -> bool:
        """Whether the file existed when this was first asked."""
        return self._cached("config", super().config_exists, config_path)

    def group_exists(self, config_path: str) -> bool:
        """Whether the folder existed when this was first asked."""
        return self._cached("group", super().group_exists, config_path)

    def __deepcopy__(self, _: object) -> Self:
        """A copy with search paths of its own and the same cache."""
        return copy.copy(self)

    def _cached(self, kind: str, read: Callable[[str], Any], path: str) -> Any:
        if (kind, path) not in self._cache:
            self._cache[kind, path] = read(path)
        return self._cache[kind, path]


def keep_files(context: HydraContext) -> None:
    """Let a sweep compose all of its jobs from the files as they were first read."""
    use_repository(context, CachedConfigRepository)

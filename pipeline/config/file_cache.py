"""Caches configuration files at their first reading, so that each job composes to the planned run."""

import copy
import pickle
from collections.abc import Callable, Hashable
from typing import Any, Self

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from hydra.types import HydraContext

from pipeline.config.hydra_internals import ConfigRepository, share_composition, use_repository


class CachedConfigRepository(ConfigRepository):
    """Configuration files, each read once; copies by Hydra or in other processes share the cache."""

    def __init__(self, path: ConfigSearchPath) -> None:
        super().__init__(path)
        self._files: dict[tuple[str, str], Any] = {}
        self._made: dict[Hashable, Any] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        """The content of the file when it was first read."""
        # a copy, because Hydra changes the result; that of a pickle takes half the time of a deep copy
        load = super().load_config
        return pickle.loads(self._cached("load", lambda path: pickle.dumps(load(path)), config_path))

    def config_exists(self, config_path: str) -> bool:
        """Whether the file existed at the first call."""
        return self._cached("config", super().config_exists, config_path)

    def group_exists(self, config_path: str) -> bool:
        """Whether the folder existed at the first call."""
        return self._cached("group", super().group_exists, config_path)

    def kept(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` made of these files at the first call with this key."""
        sources = tuple((source.scheme(), source.path) for source in self.get_sources())
        if (sources, key) not in self._made:
            self._made[sources, key] = make()
        return self._made[sources, key]

    def __deepcopy__(self, _: object) -> Self:
        """A copy with its own search path and the same caches."""
        copied = copy.copy(self)
        copied._made = self._made
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which has one job: the files without what was made of them for all jobs."""
        return {**vars(self), "_made": {}}

    def _cached(self, kind: str, read: Callable[[str], Any], path: str) -> Any:
        if (kind, path) not in self._files:
            self._files[kind, path] = read(path)
        return self._files[kind, path]


def keep_files(context: HydraContext) -> None:
    """Let a sweep compose all its jobs from the files as they were at the first reading."""
    use_repository(context, CachedConfigRepository)
    share_composition()

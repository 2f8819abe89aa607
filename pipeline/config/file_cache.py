"""Keeps configuration files as they were read first, so that a job starts as the run that was planned."""

import copy
from collections.abc import Callable
from typing import Any, Self

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from hydra.types import HydraContext


class Kept(ConfigRepository):
    """Configuration files, each read once; copies of it, which Hydra makes and processes get, share them."""

    def __init__(self, path: ConfigSearchPath) -> None:
        super().__init__(path)
        self._known: dict[tuple[str, str], Any] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        """What the file held when it was first asked for."""
        # a copy, because Hydra changes what it gets
        return copy.deepcopy(self._once("load", super().load_config, config_path))

    def config_exists(self, config_path: str) -> bool:
        """Whether the file was there then."""
        return self._once("config", super().config_exists, config_path)

    def group_exists(self, config_path: str) -> bool:
        """Whether the folder was there then."""
        return self._once("group", super().group_exists, config_path)

    def __deepcopy__(self, _: object) -> Self:
        """Search paths of its own, the files in common."""
        return copy.copy(self)

    def _once(self, kind: str, ask: Callable[[str], Any], path: str) -> Any:
        if (kind, path) not in self._known:
            self._known[kind, path] = ask(path)
        return self._known[kind, path]


def keep_files(context: HydraContext) -> None:
    """Let a sweep compose all of its jobs from the files as it reads them first."""
    loader: Any = context.config_loader
    loader.repository = Kept(loader.get_search_path())

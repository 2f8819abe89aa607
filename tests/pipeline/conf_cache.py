"""Makes compositions in the tests cheap: what they have in common is done once in a process."""

import pickle
from functools import cache
from typing import Any

import pytest
from hydra._internal import defaults_list
from hydra.core.default_element import InputDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, _utils, base

from pipeline.config.hydra_internals import ConfigRepository
from tests.paths import CONF

UNCHANGING = (f"file://{CONF}", "pkg://hydra.conf")
"""Folders that no test changes; those of a test, and what plug-ins register, are read every time."""


def keep_conf(patch: pytest.MonkeyPatch) -> None:
    """Let Hydra take files of `UNCHANGING` from memory: parsing them is half the time of a composition."""
    # by the folders in which Hydra searches, since an earlier one may have a file of the same name
    files: dict[tuple[tuple[str, ...], str], bytes] = {}
    load = ConfigRepository.load_config

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        key = tuple(source.path for source in self.get_sources()), config_path
        if key in files:
            return pickle.loads(files[key])  # Hydra changes the result; this is twice as fast as a deep copy
        result = load(self, config_path)
        if result is not None and result.path in UNCHANGING:
            files[key] = pickle.dumps(result)
        return result

    patch.setattr(ConfigRepository, "load_config", load_config)
    # Hydra makes a map of the choices for every list of defaults, and asks it about those with `${…}`
    choices = defaults_list._create_interpolation_map

    def choices_if_asked(overrides: Any, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        asked = any(default.is_interpolation() for default in defaults)
        return choices(overrides, defaults, self_added) if asked else DictConfig({})

    patch.setattr(defaults_list, "_create_interpolation_map", choices_if_asked)
    # interpolations are parsed anew for every composition
    parse = cache(base.parse)
    for module in (base, _utils):
        patch.setattr(module, "parse", parse)

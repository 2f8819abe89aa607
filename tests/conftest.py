"""Settings for every test: no hub, no progress bars, one W&B mode."""

import os

# before any library reads them
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TQDM_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups first: one process runs all of a group, and would be alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)

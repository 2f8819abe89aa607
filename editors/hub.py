"""Whether the Hugging Face hub answers, and what its caches hold."""

import os
import threading
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from editors.errors import first_line

Kind = Literal["model", "dataset"]

_PATIENCE = 10.0
"""Seconds within which the hub has to answer whether it has a repository."""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1"


def refusal(repository: str, *, kind: Kind, patience: float) -> Exception | None:
    """Why the hub does not give a repository within `patience` seconds; None if it does."""
    given: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().repo_info(repository, repo_type=kind, timeout=patience)
            given.append(None)
        except Exception as error:  # no network, a proxy's page, no such repository
            given.append(error)

    # a thread, because no timeout covers the look-up of a name
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience)
    return given[0] if given else TimeoutError(f"no answer within {patience:g} seconds")


def silence(repository: str, *, kind: Kind) -> Exception | None:
    """Why the hub does not answer about a repository; None if it does, also by a refusal."""
    error = refusal(repository, kind=kind, patience=_PATIENCE)
    return None if isinstance(error, HfHubHTTPError) else error


def check_answers(model: str, revision: str | None) -> None:
    """Ask the hub for a model that its cache lacks, because the libraries try for half a minute.

    Raises:
        ConnectionError: if nobody answers.
        ValueError: for what is no id.
    """
    names = ("config.json", "adapter_config.json")
    cached = (try_to_load_from_cache(model, name, revision=revision) for name in names)
    if is_offline() or any(isinstance(path, str) for path in cached):
        return
    if error := silence(model, kind="model"):
        raise ConnectionError(f"it does not answer: {first_line(error)}") from error


def is_cached(dataset: str) -> bool:
    """Whether the cache of the hub or of the library `datasets` has a data set of the hub."""
    hub = Path(constants.HF_HUB_CACHE) / f"datasets--{dataset.replace('/', '--')}" / "snapshots"
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    return hub.is_dir() or (prepared / dataset.replace("/", "___")).is_dir()

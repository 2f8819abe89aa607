"""Whether the hub is asked for a model, and how long."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError
from requests import Response

from editors import hub
from editors.errors import ModelError
from editors.hub import check_answers
from editors.models.loading import Checkpoint
from editors.models.stored.checkpoint_files import CheckpointFiles

SILENT = TimeoutError("no answer within 10 seconds")


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")


def test_a_hub_that_is_silent_is_asked_once(monkeypatch: pytest.MonkeyPatch):
    """The libraries would ask for every file, and again and again."""
    asked: list[str] = []
    monkeypatch.setattr(hub, "refusal", lambda model, **_: asked.append(model) or SILENT)
    monkeypatch.setattr(CheckpointFiles, "require", lambda *_: pytest.fail("the library was asked"))
    with pytest.raises(
        ModelError, match=r"'no/such': .*does not answer: no answer within 10 seconds.*check the network"
    ):
        Checkpoint(name="a", path="no/such").load()
    assert asked == ["no/such"]


def test_a_hub_that_answers_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "refusal", lambda *_, **__: RepositoryNotFoundError("404", response=Response()))
    check_answers("no/such", None)
    monkeypatch.setattr(hub, "refusal", lambda *_, **__: None)
    check_answers("no/such", None)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_what_is_cached_needs_no_hub(monkeypatch: pytest.MonkeyPatch, name: str):
    def cached(model: str, file: str, *, revision: str | None) -> str | None:
        return str(Path("snapshots") / file) if (model, file, revision) == ("a/b", name, "main") else None

    monkeypatch.setattr(hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(hub, "refusal", lambda *_, **__: SILENT)
    check_answers("a/b", "main")
    with pytest.raises(ConnectionError, match="no answer"):
        check_answers("a/b", "other")

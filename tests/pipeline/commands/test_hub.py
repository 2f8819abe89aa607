"""Models are sent to a hub only where they can arrive: a stand-in on this machine takes its place."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from omegaconf import DictConfig

from analysis.results.run_folder import runs_in
from editors.errors import ConfigError
from pipeline.commands import export
from pipeline.commands.exports.hub import check_destination, push
from pipeline.launch import launch
from tests.hub import TOKEN, Hub, local_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "no-tokens"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_the_files_of_the_folder_arrive_in_a_private_repository(hub: Hub, tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    contents = {"config.json": b"{}", "model.safetensors": bytes(1000), "README.md": "Größe".encode()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    check_destination("lab/edited")
    assert push(folder, "lab/edited") == f"{hub.address}/lab/edited"
    assert hub.repositories == {"lab/edited": contents} and hub.private == {"lab/edited": True}


def test_an_empty_repository_takes_a_model_and_one_with_files_is_refused(hub: Hub):
    hub.repositories["someone/empty"] = {".gitattributes": b""}
    check_destination("someone/empty")
    hub.repositories["someone/full"] = {".gitattributes": b"", "model.safetensors": b""}
    with pytest.raises(ConfigError, match=r"holds files already, such as model\.safetensors: name a new"):
        check_destination("someone/full")


def test_an_exported_model_is_sent_with_its_card(
    hub: Hub, composed: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    launch(composed("stage=[norms]", "keep_weights=true", "edits=1"), tmp_path)
    (run,), out = runs_in(tmp_path / "test"), tmp_path / "model"
    capsys.readouterr()
    assert export.main([str(run.path), f"out={out}", "push=someone/edited"]) == 0
    assert capsys.readouterr().out == f"{out}\n{hub.address}/someone/edited (private)\n"
    sent = hub.repositories["someone/edited"]
    assert sent == {path.name: path.read_bytes() for path in out.iterdir()} and "README.md" in sent
    assert "holds files already" in str(
        export.main([str(run.path), f"out={tmp_path / 'again'}", "push=someone/edited"])
    )
    assert not (tmp_path / "again").exists(), "refused before the export"


@pytest.mark.parametrize(
    ("repository", "sentence"),
    [
        ("model", "has to be USER/NAME"),
        ("someone/a/b", "names no repository"),
        ("someone/", "names no repository"),
        ("other/model", "the login is for someone, lab, not for other"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(hub: Hub, repository: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        check_destination(repository)
    assert not hub.repositories


def test_without_a_login_or_the_hub_the_way_out_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ConfigError, match="refuses or cannot be reached"):
        check_destination("someone/model")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="needs a login: hf auth login"):
        check_destination("someone/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set: unset it"):
        check_destination("someone/model")

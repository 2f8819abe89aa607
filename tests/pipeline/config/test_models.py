"""What a configuration knows of a model before it is loaded, and the sentence about what it lacks."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from editors import hub
from editors.errors import ConfigError
from pipeline.config.fingerprint import fingerprint
from pipeline.config.models import missing, sources
from pipeline.config.models.described import model_depth, model_name
from pipeline.config.models.published import scaled
from pipeline.config.models.sources import model_source
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import composed, resolved
from tests.pipeline.conftest import CONF


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/My-Model/", "my-model"),
        ("org/name-1.5B", "name-1.5b"),
        ("~/a b", "a-b"),
        ("/c/models--org--name/snapshots/0123abc", "name"),
        (None, ""),
    ],
)
def test_a_name_is_the_last_part_of_a_path(path: str | None, name: str):
    assert model_name(path, None) == name
    assert model_name(None, "/x/Tiny.Q4_1.gguf") == "tiny.q4_1"


def test_the_depth_is_that_of_the_configuration(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 30}))
    assert model_depth(str(tmp_path), None, None) == 30
    assert model_depth(str(tmp_path / "absent"), None, None) is None


def message(*overrides: str) -> str:
    """What the command line refuses `overrides` with."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["model=hf", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    try:
        with pytest.raises(ConfigError) as caught:
            resolved(config)
    finally:
        HydraConfig.instance().cfg = None
    return str(caught.value)


def test_python_is_told_what_to_give_without_a_command(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 30}))
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["model=hf", f"model.path={tmp_path}"])
    with pytest.raises(ConfigError, match=r"no values for editor=memit .*give layers=\[") as caught:
        resolved(config, in_python=True)
    assert "on the command line" not in str(caught.value) and "editor.preservation" not in str(caught.value)


def test_a_job_of_a_sweep_is_told_the_options_in_one_line(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 30}))
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["model=hf", f"model.path={tmp_path}"])
    given = r"give 'layers\.edit=\[\d.*\]' editor\.preservation_weight=\d.*, or write"
    with pytest.raises(ConfigError, match=given):  # a dot matches no line break
        resolved(config)


def test_everything_that_is_lacking_is_told_at_once_with_guesses(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 30}))
    text = message(f"model.path={tmp_path}", "corpus@model.corpus=file")
    assert "layers.edit=[" in text and "layers.edit=..." not in text
    assert "editor.preservation_weight=" in text and "weight=..." not in text
    assert "pipeline suggest" in text
    assert "model.corpus.path=..." in text and "a guess" in text and "docs/models.md" in text
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bloom"}))
    described = tmp_path.parent / f"{tmp_path.name}-bloom"
    tmp_path.rename(described)
    assert "model_type 'bloom' is not supported" in message(f"model.path={described}")


def test_layers_are_guessed_as_adjacent_blocks_at_the_same_relative_depth():
    assert scaled([3, 4, 5, 6, 7, 8], 28, to=30) == [3, 4, 5, 6, 7, 8]
    assert scaled([5], 28, to=30) == [5]
    assert scaled([4, 5, 6, 7, 8], 32, to=64) == [10, 11, 12, 13, 14]
    assert scaled([45, 46, 47], 48, to=24) == [22, 23]
    assert scaled(range(28), 28, to=12) == [*range(12)]
    assert scaled([3, 4, 5, 6, 7, 8], 28, to=1) == [0]


def test_no_command_is_printed_for_a_path_that_does_not_exist():
    text = message("model.path=/no/such/model")
    assert "model.path=/no/such/model is no folder here" in text
    assert "python -m pipeline" not in text and "..." not in text


def test_the_search_leaves_out_what_belongs_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 30}))
    run = [
        *(
            "edits=9",
            "batch_size=3",
            "stage=[norms,efficacy]",
            "+stage.norms.x=1",
            "data=file",
            "data.path=f.csv",
        ),
        *(
            "name=mine",
            "seed=3",
            "launcher.threads=1",
            "tracker=none",
            "experiment=e",
            "overlay=o",
            "editor.kl=1",
            "intervention.keep_updates=true",
        ),
    ]
    given = ["model=hf", f"model.path={tmp_path}", "corpus@model.corpus=file", *run]
    monkeypatch.setattr(missing, "_given", lambda: given)
    command, search = message(f"model.path={tmp_path}", "corpus@model.corpus=file").split("pipeline suggest ")
    assert all(each in command for each in given)
    assert search.split() == [*given[:2], "model.corpus.path=...", "editor=memit", "corpus@model.corpus=file"]
    monkeypatch.setattr(missing, "_given", lambda: [])  # a command that changed nothing
    assert "pipeline suggest model=hf editor=memit" in message(f"model.path={tmp_path}")


def test_a_command_without_a_hub_takes_the_packaged_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 30}))
    text, path = "corpus@model.corpus=articles", f"model.path={tmp_path}"
    monkeypatch.setattr(missing, "find_spec", lambda name: name)
    monkeypatch.setattr(missing, "is_cached", lambda name: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commands = [line for line in message(path).splitlines() if line.startswith("  ")]
    assert len(commands) == 2 and all(text in line for line in commands)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    assert message(path).count(text) == 1 and f"without a hub add {text}" in message(path)
    assert text not in message(path, "corpus@model.corpus=world") + message(path, "editor=ft")
    monkeypatch.setattr(missing, "is_cached", lambda name: True)
    assert text not in message(path)


def test_a_data_set_is_cached_as_files_or_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "tables"))
    assert not hub.is_cached("org/a") and not hub.is_cached("org/b")
    (tmp_path / "hub" / "datasets--org--a" / "snapshots").mkdir(parents=True)
    (tmp_path / "tables" / "org___b").mkdir(parents=True)
    assert hub.is_cached("org/a") and hub.is_cached("org/b")


def test_what_lies_here_comes_before_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run keeps its weights when the network comes back."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    answers: list[bool] = []
    refused = ConnectionError("no network")
    monkeypatch.setattr(sources, "is_offline", lambda: False)
    monkeypatch.setattr(sources, "refusal", lambda path, **_: None if answers else refused)

    def source() -> str:
        model_source.cache_clear()
        return model_source("org/absent", None, str(file))

    assert source() == "package"
    answers.append(True)
    assert source() == "hub"
    (tmp_path / "outputs/cache/models" / sources.checksum(file)[:16]).mkdir(parents=True)
    assert source() == "package"
    answers.clear()
    with pytest.raises(ConfigError, match="make real-setup, or pip install gguf"):
        model_source("org/absent", None, "package:no_such_package/a.gguf")


def test_a_folder_in_place_of_an_id_is_loaded(tmp_path: Path):
    override = ["model=smollm2-135m", f"model.path={tmp_path}"]
    assert composed(override, ["model"])["model"]["source"] == "hub"
    with pytest.raises(
        ConfigError, match=r"^model.path=/no/such/folder is no folder here .* check the spelling"
    ):
        composed(["model=smollm2-135m", "model.path=/no/such/folder"], ["model"])


def test_a_key_that_came_later_counts_only_with_a_value():
    plain = {"model": {"path": "x"}}
    assert fingerprint(plain) == fingerprint({"model": {"path": "x", "gguf": None}})
    assert fingerprint(plain) != fingerprint({"model": {"path": "x", "gguf": "a"}})
    off = {"replay": False, "compensate": False, "certify": False, "undo": [], "mask": None}
    assert fingerprint({"editor": {"name": "memit"}}) == fingerprint({"editor": {"name": "memit"} | off})
    assert fingerprint({"editor": off}) != fingerprint({"editor": off | {"replay": True}})

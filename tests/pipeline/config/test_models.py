"""What a configuration knows of a model before it is loaded, and the sentence about what it lacks."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from editors.errors import ConfigError
from pipeline.config.fingerprint import fingerprint
from pipeline.config.models import sources
from pipeline.config.models.described import model_depth, model_name
from pipeline.config.models.published import scaled
from pipeline.config.models.sources import model_source
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
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
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["model=hf", *overrides])
    with pytest.raises(ConfigError) as caught:
        resolved(config)
    return str(caught.value)


def test_everything_that_is_lacking_is_told_at_once_with_guesses(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 30}))
    text = message(f"model.path={tmp_path}", "corpus@model.corpus=file")
    assert "layers.edit=[" in text and "layers.edit=..." not in text
    assert "editor.preservation_weight=" in text and "weight=..." not in text
    assert "pipeline suggest" in text
    assert "model.corpus.path=..." in text and "a guess" in text and "docs/models.md" in text
    assert "pipeline suggest model=hf" not in text  # nothing was given on a command line
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


def test_a_path_that_does_not_exist_is_named_with_everything_else():
    text = message("model.path=/no/such/model")
    assert "model.path=/no/such/model is no folder here" in text and "layers.edit=..." in text


def test_what_lies_here_comes_before_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run keeps its weights when the network comes back."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    answers: list[bool] = []
    monkeypatch.setattr(sources, "_answers", lambda path: bool(answers))

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


def test_a_key_that_came_later_counts_only_with_a_value():
    plain = {"model": {"path": "x"}}
    assert fingerprint(plain) == fingerprint({"model": {"path": "x", "gguf": None}})
    assert fingerprint(plain) != fingerprint({"model": {"path": "x", "gguf": "a"}})

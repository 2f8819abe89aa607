"""The options of a run that measures models."""

from pathlib import Path

import pytest

from editors.errors import ConfigError
from pipeline.commands.measure import overrides


def test_a_folder_with_an_equals_sign_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("rate=0.1").mkdir()
    options = overrides(["tiny-gpt2", "rate=0.1", "name=mine"])
    assert "intervention.paths=['rate=0.1']" in options and options[-1] == "name=mine"
    with pytest.raises(ConfigError, match="at least one of these"):
        overrides(["tiny-gpt2", "rate=0.2"])

"""Mistyped keys and files of conf/ are named, all at once, with what was probably meant."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

from pipeline.config.overrides.refused import sentence
from pipeline.config.overrides.unused import unused
from pipeline.config.resolvers import register_resolvers
from pipeline.paths import CONF


def refused(*overrides: str, own: Path | None = None) -> str:
    """The sentence about overrides that Hydra refuses."""
    register_resolvers()
    search = [f"hydra.searchpath=[file://{own}]"] if own else []
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("config", [*overrides, *search])
    return sentence(caught.value, overrides, own)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["editr=memit"], ["editr=memit: there is no editr here; did you mean editor?"]),
        (["edts=3"], ["did you mean edits?"]),
        (["editor.step=3"], ["did you mean editor.targets.steps?"]),
        (["editor.targts.step=3"], ["did you mean editor.targets.steps?"]),
        (["editor=memmit"], ["conf/editor has no memmit; did you mean memit? There are alphaedit, "]),
        (["stage=[norm]"], ["stage=[norm]: conf/stage has no norm; did you mean norms?"]),
        (
            ["editor.zzz=3"],
            ["there is no editor.zzz here; there are editor._target_, ", "(+editor.zzz=3 adds it)"],
        ),
        (
            ["stage.suppression.mask=0.1"],
            ["there is no stage.suppression here; choose it with 'stage=[", ",suppression]'"],
        ),
        (["zzz.zzz.zzz=1"], ["zzz.zzz.zzz=1: there is no zzz here; there are name, seed"]),
        (["edts=3", "editor=memmit", "modl=x"], ["mean edits?\n", "mean memit?", "mean model?"]),
    ],
)
def test_what_was_meant_is_named(overrides: Sequence[str], parts: Sequence[str]):
    message = refused(*overrides)
    assert all(part in message for part in parts), message
    assert len(message.splitlines()) == len(overrides)


@pytest.mark.parametrize("override", ["hydra.launcher.zzz=3", "stage/downstream/tasks=[glue]"])
def test_what_hydra_explains_itself_is_left_to_it(override: str):
    assert refused("stage=[norms]", override) == ""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of a user's own files, with one stage."""
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "my_kurtosis.yaml").write_text("my_kurtosis: {name: x, cadence: {every: 1}}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["stage.my_kurtosis.every=2"], ["did you mean stage.my_kurtosis.cadence.every?"]),
        (["stage.my_kurtosis.nme=y"], ["did you mean stage.my_kurtosis.name?"]),
        (["stage.my_kurtosi.cadence.every=2"], ["did you mean stage.my_kurtosis.cadence.every?"]),
        (["stage.norms.evry=2", "edts=3"], ["mean stage.norms.cadence.every?\n", "mean edits?"]),
    ],
)
def test_keys_of_a_stage_of_ones_own_are_named(own: Path, overrides: Sequence[str], parts: Sequence[str]):
    message = refused("stage=[norms,my_kurtosis]", *overrides, own=own)
    assert all(part in message for part in parts), message


def test_files_of_ones_own_are_choices(own: Path):
    """Without the folder the message says how it is given."""
    message = refused("stage=[norms,my_kurtosi]", own=own)
    assert f"conf/stage has no my_kurtosi, and neither has --config-dir {own}; did you mean" in message
    assert "mean my_kurtosis? There are activations, " in message and ", my_kurtosis, " in message
    assert "--config-dir FOLDER" in refused("stage=[norms,my_kurtosis]")


def test_a_key_that_is_added_to_what_is_not_chosen_is_reported(composed: Callable[..., DictConfig]):
    """Hydra adds it without a word, and the run drops it."""
    of_none = ["+stage.probes.cadence.every=3", "++regularizer.rect.share=0.5"]
    given = ["stage=[norms]", "+stage.norms.zz=1", "+stage.mine._target_=my.Stage", "+editor.zz=1", *of_none]
    sentences = [*unused(composed(*given), given)]
    assert [each.partition(" has no effect")[0] for each in sentences] == of_none
    assert sentences[0].endswith(": probes is not chosen; choose it with 'stage=[…,probes]'")

"""Mistyped keys and files of conf/ are named, all at once, with what was probably meant."""

from collections.abc import Sequence

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from pipeline.config.overrides.refused import sentence
from pipeline.config.resolvers import register_resolvers
from pipeline.paths import CONF


def refused(*overrides: str) -> str:
    """The sentence about overrides that Hydra refuses."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("config", list(overrides))
    return sentence(caught.value, overrides)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["editr=memit"], ["editr=memit: there is no editr here; did you mean editor?"]),
        (["edts=3"], ["did you mean edits?"]),
        (["editor.step=3"], ["did you mean editor.targets.steps?"]),
        (["editor=memmit"], ["conf/editor has no memmit; did you mean memit? There are alphaedit, "]),
        (["stage=[norm]"], ["stage=[norm]: conf/stage has no norm; did you mean norms?"]),
        (
            ["editor.zzz=3"],
            ["there is no editor.zzz here; there are editor._target_, ", "(+editor.zzz=3 adds it)"],
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

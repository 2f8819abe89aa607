"""The configuration of a run as plain values: used keys are part of it, unused ones are not."""

import copy
from collections.abc import Callable

import pytest
from omegaconf import DictConfig, OmegaConf

from editors.errors import ConfigError
from pipeline.config import schema
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import resolved


def small(reference: str) -> DictConfig:
    """A configuration whose intervention refers to one key of the top level."""
    keys = {"steps": 200, "steps_x": 3, "edits": 4, "batch_size": 1, "editor": {"edits": "${edits}"}}
    return OmegaConf.create({**keys, "intervention": {"count": reference}})


@pytest.mark.parametrize(
    ("reference", "used"),
    [
        ("${steps}", {"steps"}),
        ("${ steps }", {"steps"}),
        ("${steps_x}", set()),
        ("${editor.edits}", {"editor", "edits"}),
        ("at ${steps_x}", set()),
        ("${oc.decode:'${steps}'}", {"steps"}),
    ],
)
def test_a_run_keeps_the_keys_that_it_refers_to(reference: str, used: set[str]):
    """A key whose name begins with another one, such as `steps_x` with `steps`, is a different key."""
    plain = resolved(small(reference))
    assert {key for key in ("steps", "edits", "batch_size", "editor") if plain[key] is not None} == used


def test_resolving_does_not_change_its_argument(composed: Callable[..., DictConfig]):
    config = composed("intervention=none", "stage=[norms]", "+regularizer.rect.keep=0.5")
    before = copy.deepcopy(config)
    assert resolved(config)["regularizer"] is None
    assert config == before and OmegaConf.is_struct(config) == OmegaConf.is_struct(before)


def test_plugins_do_not_distinguish_runs(composed: Callable[..., DictConfig]):
    first, second = resolved(composed()), resolved(composed("plugins=[my_plugin]"))
    assert first["plugins"] == [] and second["plugins"] == ["my_plugin"]
    assert fingerprint(first) == fingerprint(second)
    del first["plugins"]
    assert fingerprint(first) == fingerprint(second)


def test_a_value_that_another_one_refers_to_is_named(composed: Callable[..., DictConfig]):
    sentence = r"^data\.path has no value: add data\.path=FILE$"
    with pytest.raises(ConfigError, match=sentence):
        resolved(composed("data=file", "data.path=???"))
    with pytest.raises(ConfigError, match=sentence):
        schema.composed(["data=file"], ["data"])


def test_an_interpolation_of_a_missing_key_is_named(composed: Callable[..., DictConfig]):
    with pytest.raises(ConfigError, match="no_such_key"):
        resolved(composed("intervention.edits=${no_such_key}"))

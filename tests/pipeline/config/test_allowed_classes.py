"""A configuration may build only allowed classes, and nothing else is imported."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from analysis import plugins
from editors.errors import ConfigError
from pipeline.build import build_model
from pipeline.config.allowed_classes import is_allowed, own_targets, plugin_problems
from pipeline.config.validation import node_problems
from tests.paths import CONF

OWN = "editors.methods.memit.MEMIT"


def named_targets(node: object) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(named_targets, node))
    if not isinstance(node, dict):
        return set()
    own = {node["_target_"]} if "_target_" in node else set()
    return own.union(*map(named_targets, node.values()))


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that creates a folder when it is imported, and then raises an error."""
    marker = str(tmp_path / "imported")
    (tmp_path / "trap.py").write_text(f"import os\nos.mkdir({marker!r})\nraise ValueError('bang')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    return "trap"


def test_the_allowed_classes_are_those_of_the_configuration_files():
    files = [yaml.safe_load(path.read_text()) for path in CONF.rglob("*.yaml")]
    named = set().union(*map(named_targets, files))
    assert own_targets() == {
        name for name in named if name.split(".")[0] in ("analysis", "editors", "pipeline")
    }
    assert len(own_targets()) > 70


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "pipeline.runs.atomic_files.write",
        "pipeline.data.world.recipe.build",
        "editors.methods.memit.least_squares",
        "editors.methods.memit.MEMIT.solve",
        "hydra_plugins.normscope.Sweep",
        "optuna.samplers.TPESampler",
        "MEMIT",
        "",
    ],
)
def test_a_class_that_no_file_names_is_refused_with_the_way_out(target: str):
    (problem,) = node_problems("stage.mine", {"_target_": target})
    assert f"stage.mine._target_={target} " in problem and "plugins=[" in problem
    assert "plugins=[os]" not in problem and "plugins=[]" not in problem


def test_a_plugin_is_a_module_and_all_below_it():
    assert is_allowed("mine.Editor", ["mine"]) and is_allowed("mine.editors.Editor", ["mine"])
    assert not is_allowed("mine.Editor", ["mine.editors"]) and not is_allowed("mine.Editor", ["min"])
    assert not is_allowed("mine", ["mine"])
    assert is_allowed(OWN, [])


def test_an_installed_entry_point_is_a_plugin(monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint(name="mine", value="my_package.parts:Editor", group=plugins.ENTRY_POINTS)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == point.group else [])
    plugins.installed_plugins.cache_clear()
    assert is_allowed("my_package.parts.Editor", []) and not is_allowed("my_package.other.Editor", [])
    plugins.installed_plugins.cache_clear()


def test_a_refused_class_is_not_imported(trap: str, tmp_path: Path):
    assert list(node_problems("editor", {"_target_": f"{trap}.Editor"}))
    stored = {"plugins": [trap], "model": {"_target_": f"{trap}.Model"}}
    with pytest.raises(ConfigError, match=rf"model\._target_={trap}\.Model .*plugins=\[{trap}\]"):
        build_model(stored)
    assert not (tmp_path / "imported").exists()


def test_a_plugin_that_cannot_be_imported_is_named_with_the_cause(trap: str, tmp_path: Path):
    assert list(plugin_problems([trap])) == [
        "plugins=[trap] cannot be imported (ValueError: bang): install it or set PYTHONPATH"
    ]
    assert (tmp_path / "imported").exists()
    (tmp_path / "imported").rmdir()
    (problem,) = node_problems("editor", {"_target_": "trap.Editor"}, [trap])
    assert problem == "editor._target_=trap.Editor cannot be imported (ValueError: bang)"


def test_a_module_below_an_allowed_name_is_no_attribute_of_it():
    """`os` is an attribute of many modules, but its functions are not part of a plug-in for that reason."""
    (problem,) = node_problems("editor", {"_target_": "json.decoder.re.compile"}, ["json"])
    assert problem.startswith("editor._target_=json.decoder.re.compile cannot be imported")

"""Hydra's internals that this project uses: each test names the feature that depends on one of them."""

import pickle
import re
from typing import Any, cast

import pytest
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, _utils, base, open_dict

from pipeline.config.file_cache import CachedConfigRepository, keep_files
from pipeline.config.hydra_internals import (
    ConfigRepository,
    combinations,
    parsed,
    register_plugin,
    restore_singletons,
    result_of,
    singletons,
    use_repository,
    with_search_path,
)
from tests.paths import ROOT
from tests.pipeline.sweeping import context_of

DIFFERENT = (
    ["experiment=real"],
    ["model=gpt2-xl", "editor=encore", "stage=[norms,probes]"],
    ["intervention=lora", "model=llama2-7b"],
    ["editor=alphaedit", "regularizer=[history,rect]", "data=atlas"],
    ["experiment=real", "seed=7", "++editor.nosuch={a:1}", "hydra.job.name=other"],
    ["experiment=real", "~edits"],
    ["model=gpt2-xl", "editor=encore", "stage=[norms,probes]", "edits=3"],
)
"""Overrides of runs, some with the same choices of groups."""
SHARED: tuple[tuple[Any, str], ...] = (
    (base, "parse"),
    (_utils, "parse"),
    (defaults_list, "_create_interpolation_map"),
    (config_loader_impl, "create_defaults_list"),
    (ConfigLoaderImpl, "_load_single_config"),
    (ConfigLoaderImpl, "_compose_config_from_defaults_list"),
)
"""Functions of Hydra and OmegaConf that `share_composition` replaces."""
PACKAGES = ("analysis", "editors", "pipeline")


def test_no_other_file_uses_hydra_internals():
    private = re.compile(
        r"hydra\._internal|omegaconf import .*\b_|\._instances\b|\._return_value\b|class_name_to_class"
    )
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    users = {path.name for path in files if private.search(path.read_text(encoding="utf-8"))}
    assert users == {"hydra_internals.py"}


def test_the_options_of_a_command_line_are_told_from_its_overrides():
    """Otherwise a folder after `--config-dir` is read as an override, and its files are no choices."""
    for arguments in (["--config-dir", "mine", "a=1", "b=2"], ["-m", "a=1", "b=2", "--config-dir=mine"]):
        assert parsed(arguments) == (["a=1", "b=2"], "mine")
    assert parsed(["a=1", "--unknown", "~b"]) == (["a=1", "~b"], None)


def test_plugins_are_found_by_name():
    """Otherwise no `hydra.sweeper` or `hydra.launcher` of conf/hydra is found."""
    assert isinstance(Plugins.instance().class_name_to_class, dict)
    register_plugin("Example", str)
    assert Plugins.instance().class_name_to_class.pop("hydra_plugins.normscope.Example") is str


def test_stored_configurations_are_nested_by_group():
    """Otherwise Hydra takes its own files, or those of a plug-in, for the schemas of ours."""
    for name in ("tpe", "other"):
        ConfigStore.instance().store(group="hydra/sweeper/sampler", name=name, node={}, provider="a plug-in")
    stored = ConfigStore.instance().repo["hydra"]["sweeper"]
    assert isinstance(stored, dict) and {"tpe.yaml", "other.yaml"} <= stored["sampler"].keys()
    context_of([])
    assert not {"basic.yaml", "optuna.yaml"} & stored.keys()
    assert "tpe.yaml" not in stored["sampler"] and "other.yaml" in stored["sampler"]
    del stored["sampler"]["other.yaml"]


def test_a_grid_has_all_combinations_in_order():
    """Otherwise a sweep launches the wrong runs."""
    overrides = OverridesParser.create().parse_overrides(["x=1,2", "y=a", "z=range(2)"])
    assert combinations(overrides) == [[f"x={x}", "y=a", f"z={z}"] for x in (1, 2) for z in (0, 1)]


def test_the_error_of_a_job_is_read_without_raising_it():
    """Otherwise one failed run ends the sweep."""
    job, error = JobReturn(), ValueError("failed")
    job.return_value, job.status = error, JobStatus.FAILED
    assert result_of(job) is error


def test_files_are_read_through_the_repository_of_the_loader():
    """Otherwise files edited during a sweep reach its later jobs."""
    context, _ = context_of([])
    use_repository(context, CachedConfigRepository)
    assert isinstance(context.config_loader, ConfigLoaderImpl)
    assert isinstance(context.config_loader.repository, CachedConfigRepository)
    for method in ("load_config", "config_exists", "group_exists"):
        assert callable(getattr(ConfigRepository, method))


def test_a_loader_is_made_from_its_search_path():
    """Otherwise jobs of Slurm compose from edited files."""
    context, shared = context_of(["name=x"])
    other = with_search_path(context, context.config_loader.get_search_path())
    assert other.config_loader is not context.config_loader
    assert other.config_loader.load_sweep_config(shared, ["seed=3"]).seed == 3


def test_the_state_of_a_process_can_be_set_in_another():
    """Otherwise jobs of a pool compose without the settings of their sweep."""
    stored = ConfigStore.instance()
    Plugins.instance()
    state = singletons()
    assert state[ConfigStore] is stored and Plugins not in state
    restore_singletons(state)
    assert ConfigStore.instance() is stored


def test_compositions_that_share_work_are_those_of_hydra(monkeypatch: pytest.MonkeyPatch):
    """Otherwise a sweep computes other runs than its jobs do alone."""
    context, _ = context_of([])
    keep_files(context)

    def composed_anew() -> list[DictConfig]:
        load = context.config_loader.load_configuration
        return [load("config", run, RunMode.RUN) for run in DIFFERENT]

    first, again = composed_anew(), composed_anew()
    for owner, name in SHARED:
        monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
    context, _ = context_of([])
    for by_hydra, *shared in zip(composed_anew(), first, again, strict=True):
        for config in shared:
            assert OmegaConf.to_yaml(config) == OmegaConf.to_yaml(by_hydra)
            assert OmegaConf.get_type(config.hydra) is OmegaConf.get_type(by_hydra.hydra)
            assert OmegaConf.is_struct(config) and OmegaConf.is_readonly(config) == OmegaConf.is_readonly(
                by_hydra
            )
    assert len({OmegaConf.to_yaml(config) for config in first}) == len(DIFFERENT)


def test_what_hydra_refuses_is_refused_where_compositions_share_work():
    """Otherwise a choice or value that does not exist runs because an earlier composition was right."""
    context, _ = context_of([])
    keep_files(context)
    load = context.config_loader.load_configuration
    load("config", ["editor=encore", "seed=1"], RunMode.RUN)
    for _ in range(2):
        for wrong in ("editor=nosuch", "nosuch=1", "~nosuch", "++editor=memit", "~editor=memit"):
            with pytest.raises(HydraException):
                load("config", ["editor=encore", wrong], RunMode.RUN)


def test_a_changed_composition_leaves_the_kept_one_as_it_was():
    """Otherwise what one job sets in its configuration reaches the next."""
    context, _ = context_of([])
    keep_files(context)
    load = context.config_loader.load_configuration
    first = load("config", ["seed=1"], RunMode.RUN)
    expected = OmegaConf.to_yaml(first)
    first.hydra.overrides.task.append("x=1")
    with open_dict(first):
        first.editor.nosuch = 1
    assert OmegaConf.to_yaml(load("config", ["seed=1"], RunMode.RUN)) == expected


def test_another_process_gets_the_files_of_a_sweep_alone():
    """Otherwise each job of a large sweep is sent the compositions of all others."""
    context, _ = context_of([])
    keep_files(context)
    loader = cast(Any, context.config_loader)
    sizes = []
    for seed in range(2):
        for editor in ("memit", "encore", "rome"):
            loader.load_configuration("config", [f"editor={editor}", f"seed={seed}"], RunMode.RUN)
        sizes.append(len(pickle.dumps(loader.repository)))
    assert len(loader.repository._made) > 6 and not pickle.loads(pickle.dumps(loader.repository))._made
    assert pickle.loads(pickle.dumps(loader.repository))._files == loader.repository._files
    assert sizes[0] == sizes[1]

"""The stored configuration of another's run builds objects of the expected kinds and does nothing else."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import pytest

from analysis.stages.base import Stage
from analysis.stages.signatures import Judge
from editors.data import Corpus
from editors.errors import ConfigError
from editors.models.loading import Checkpoint
from pipeline.build import build_model
from pipeline.config.instances import instance
from pipeline.config.kinds import is_of, kinds_in
from pipeline.config.validation import node_problems
from pipeline.data.corpora import TextFile
from pipeline.data.sources import CounterFact, FactSource
from pipeline.tracking.wandb_tracker import Wandb

CHECKPOINT = "editors.models.loading.Checkpoint"
TEXT = {"_target_": "pipeline.data.corpora.TextFile", "path": "a.txt"}
MODEL: dict[str, Any] = {"_target_": CHECKPOINT, "name": "m", "path": "p", "corpus": TEXT}


def refusal(**change: object) -> str:
    """The message about a stored model that differs from a good one in this."""
    with pytest.raises(ConfigError) as problem:
        build_model({"model": {**MODEL, **change}})
    return str(problem.value)


def test_a_stored_model_is_built():
    model = build_model({"model": MODEL, "plugins": ["no_such_module"]})
    assert (
        isinstance(model, Checkpoint) and isinstance(model.corpus, TextFile) and model.corpus.path == "a.txt"
    )


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("editors.methods.memit.MEMIT", "Corpus"),
        ("pipeline.tracking.wandb_tracker.Wandb", "Corpus"),
        ("pipeline.data.sources.CounterFact", "Corpus"),
        (CHECKPOINT, "Corpus"),
    ],
)
def test_an_allowed_class_is_refused_at_the_place_of_another_kind(target: str, kind: str):
    assert f"model.corpus._target_={target} is no {kind}, which has to be there" in refusal(
        corpus={"_target_": target}
    )


def test_the_model_has_to_be_a_model():
    with pytest.raises(
        ConfigError, match=r"model\._target_=pipeline\.data\.corpora\.TextFile is no Checkpoint"
    ):
        build_model({"model": TEXT})
    for node in (None, [], "x", [MODEL], {"name": "m"}):
        with pytest.raises(ConfigError, match="the configuration has no model"):
            build_model({"model": node})


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_convert_", "_recursive_"])
def test_keys_that_mean_something_to_hydra_mean_nothing_here(key: str):
    assert f"model.{key} is not a key of {CHECKPOINT}" in refusal(**{key: True})


@pytest.mark.parametrize(
    "value",
    ["${oc.env:HOME}", "a${oc.decode:x}", "${.name}", "${hydra:runtime.cwd}"],
)
def test_an_interpolation_in_a_stored_configuration_is_refused(value: str):
    assert f"model.path={value} is an interpolation" in refusal(path=value)
    assert f"model.corpus.path={value} is an interpolation" in refusal(corpus={**TEXT, "path": value})


def test_a_text_that_looks_like_an_interpolation_stays_that_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "key")
    assert instance({"a": ["${oc.env:SECRET}"]}) == {"a": ["${oc.env:SECRET}"]}
    assert instance({**MODEL, "name": "${oc.env:SECRET}"}).name == "${oc.env:SECRET}"


@pytest.mark.parametrize(
    "target",
    [
        "builtins.eval",
        "hydra.utils.get_method",
        "os.system",
        "a\nb",
        ["os.system"],
        {"x": 1},
        None,
        7,
        "",
        "\x1b[31m",
    ],
)
@pytest.mark.parametrize("place", ["model", "corpus", "list"])
def test_every_other_target_is_one_line_wherever_it_lies(target: object, place: str):
    node = {"_target_": target, "path": "x"}
    nodes = {"model": node, "corpus": {**MODEL, "corpus": node}, "list": {**MODEL, "layers": [[node]]}}
    with pytest.raises(ConfigError, match="is neither named by a file of conf/") as problem:
        build_model({"model": nodes[place]})
    lines = str(problem.value).splitlines()
    assert all(line.startswith("model") and line.isprintable() for line in lines)


def test_what_a_plugin_only_imports_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "borrower.py").write_text(
        "from os import system\nfrom editors.methods.memit import MEMIT\nclass Own:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = node_problems("model", {"_target_": "borrower.system", "command": "true"}, ["borrower"])
    assert problem == "model._target_=borrower.system is posix.system, which is no part of that module"
    assert not list(node_problems("model", {"_target_": "borrower.Own"}, ["borrower"]))
    problems = list(node_problems("editor", {"_target_": "borrower.MEMIT"}, ["borrower"]))
    assert not any("no part" in line for line in problems)
    sys.modules.pop("borrower")


def test_kinds_are_those_of_the_hint_at_any_depth():
    assert kinds_in(dict[str, Stage | Judge] | None) == [Stage, Judge]
    assert kinds_in(dict[str, object]) == kinds_in(Any) == kinds_in(object | None) == [object]
    assert kinds_in(Callable[[int], Stage]) == [object]
    for plain in (
        int,
        str | None,
        NoneType,
        Literal["a", 1, None],
        Mapping[str, int | float],
        tuple[int, ...],
    ):
        assert kinds_in(plain) == []
    assert kinds_in(Corpus | None) == kinds_in(Corpus | str | Sequence[Corpus])[:1] == [Corpus]
    assert is_of(CounterFact, [FactSource]) and not is_of(Wandb, [FactSource])
    assert is_of(Wandb, [object]) and not is_of(Wandb, [])


@pytest.mark.parametrize("key", ["name", "path", "revision", "dtype", "depth", "device_map"])
@pytest.mark.parametrize("wrap", [lambda node: node, lambda node: [node], lambda node: {"a": node}])
def test_no_object_is_built_where_a_plain_value_has_to_be(key: str, wrap: Callable[[object], object]):
    assert "._target_=pipeline.data.corpora.TextFile is a class, but model." in refusal(**{key: wrap(TEXT)})


def test_plugins_that_are_no_modules_are_shown_as_they_were_written():
    with pytest.raises(ConfigError, match=r"^plugins=\[\.\./x,a\] has to be a list of modules"):
        build_model({"model": MODEL}, plugins=("../x", "a"))

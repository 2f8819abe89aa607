"""Numbers, texts and choices that nobody means: each is refused with a sentence that names its key."""

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from editors.errors import ConfigError, NormscopeError
from pipeline.build import build
from pipeline.config.instances import instance
from pipeline.config.overrides.groups import group_problems
from pipeline.config.overrides.quoting import in_quotes, literal, quoted
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
from pipeline.config.validation import node_problems
from pipeline.runs.layout import folder_of
from pipeline.tracking.wandb_tracker import Wandb
from tests.pipeline.conftest import CONF

STAGES = "norms,activations,probes,efficacy,generation,perplexity,tracing,signatures,spectra,downstream"
COMPOSED = [
    (f"stage=[{STAGES}]", "objective=score_minus_downstream_loss"),
    ("editor=alphaedit", "regularizer=[norm_constraint,mpes,norm_reset]"),
    ("editor=lti",), ("editor=pmet",), ("editor=ft",), ("editor=lora",), ("editor=mend",),
    ("intervention=fft",), ("intervention=lora",), ("intervention=edit_while_training",),
]  # fmt: skip
ROOTS = ("intervention", "model", "data", "objective")
"""Nodes that are built beside the stages; the others are parts of these."""
NEVER = (float("nan"), float("inf"), True, "many", [1.5])
PERHAPS = (-1, 0, 2**40)


def configuration(*overrides: str) -> dict[str, Any]:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolved(compose("config", overrides=["tracker=none", *overrides]))


def numbers(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths of all numbers that are arguments of a class, and the class."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from numbers(value, (*path, key))
        elif isinstance(value, int | float) and not isinstance(value, bool) and "_target_" in node:
            yield (*path, key), node["_target_"]


def changed(plain: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    result = copy.deepcopy(plain)
    node = result
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return result


@pytest.mark.slow
def test_no_number_of_the_configuration_takes_what_is_no_number():
    """Values that may be legal are built or refused with a sentence; each argument is tried once."""
    tried: set[tuple[str, str]] = set()
    for overrides in COMPOSED:
        plain = configuration(*overrides)
        parts = {f"stage.{name}": node for name, node in plain["stage"].items()}
        for name, part in (parts | {root: plain[root] for root in ROOTS}).items():
            for path, owner in numbers(part):
                if (owner, path[-1]) not in tried:
                    tried.add((owner, path[-1]))
                    try_values(name, part, path)
    assert len(tried) > 120


def try_values(name: str, part: dict[str, Any], path: tuple[str, ...]) -> None:
    for value in NEVER:
        problems = list(node_problems(name, changed(part, path, value)))
        assert any(f"{path[-1]}={value} has to be" in problem for problem in problems), (name, path, value)
    for value in PERHAPS:
        node = changed(part, path, value)
        if not list(node_problems(name, node)):
            with suppress(NormscopeError):
                instance(node)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=-1", "seed=-1 has to be at least 0"),
        ("stage.efficacy.seed=4294967296", r"stage\.efficacy\.seed=4294967296 has to be .* below 2\*\*32"),
        ("edits=1e400", "edits=inf has to be a whole number"),
        ("batch_size=true", "batch_size=True has to be a whole number"),
        ("layers.edit=[1,1]", r"layers\.edit=\[1, 1\] names a block twice"),
        ("layers.edit=[true]", r"layers\.edit=\[True\] has to be a list of block numbers"),
        ("model.depth=four", r"model\.depth=four has to be int"),
        ("editor.targets.kl_weight=-1", r"targets\.kl_weight=-1\.0, but it cannot be negative"),
        ("stage.efficacy.cadence.at=soon", r"cadence\.at=soon has to be"),
        ("stage.norms.cadence.at=[true]", r"cadence\.at=\[True\] has to be"),
        ("name=" + 129 * "x", "129 characters, more than 128"),
    ],
)
def test_a_value_that_nobody_means_is_refused(override: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        plain = configuration("layers.edit=[0]", override)
        build(plain)
        folder_of(CONF, plain)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("model=null", "model=null names no file of conf/model: leave it out, or choose .*tiny-gpt2"),
        ("editor=3", "editor=3 names no file of conf/editor"),
        ("stage=[norms,null]", "names no file of conf/stage: .*norms"),
        ("editor=memit,null", "editor=memit,null names no file"),
        ("editor=[memit,rome]", "editor takes one of .*memit.*-m editor="),
        ("corpus@text.corpus=null", "names no file of conf/corpus"),
        ("hydra/sweeper=null", "names no file of conf/hydra/sweeper"),
    ],
)
def test_a_choice_that_names_no_file_is_refused_with_the_choices(argument: str, sentence: str):
    (problem,) = group_problems(["edits=3", argument, "=broken"])
    with pytest.raises(ConfigError, match=sentence):
        raise ConfigError(problem)


def test_a_group_of_which_none_may_be_chosen_says_how():
    (problem,) = group_problems(["regularizer=null"])
    assert "choose none with regularizer=[]" in problem


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("data.path=~/facts.jsonl", "data.path='~/facts.jsonl'"),
        ("+name=Zürich west", "+name='Zürich west'"),
        *(
            (legal, legal)
            for legal in ("edits=3", "a=[1,~/x]", "a='~/x'", "a=1,~", "-m", "~stage", "a=", "--x=~/y")
        ),
    ],
)
def test_a_value_that_needs_quotes_gets_them(argument: str, result: str):
    assert quoted([argument]) == [result]


def test_choices_of_every_legal_kind_are_left_to_hydra():
    legal = ["model=hf", "stage=[norms,'probes']", "stage=[]", "editor=memit,rome", "~stage", "seed=null",
             "stage/downstream/tasks=[world]", "editor=glob(*)", "edits=range(1,3)",
             "objective=[score,edits_before_alarm]", "overlay=[paper,places]",
             "regularizer=[history,mpes]"]  # fmt: skip
    assert list(group_problems(legal)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tags": ["fine", ""]}, "tags: '' has 0 characters"),
        ({"tags": [65 * "x"]}, "65 characters, but a tag has 1 to 64"),
        ({"tags": [" "]}, "a tag has 1 to 64"),
        ({"project": "a/b"}, "project=a/b has to have .*none of .*/"),
        ({"project": ""}, "project= has to have 1 to 128"),
        ({"project": 129 * "x"}, "project=x+ has to have 1 to 128"),
        ({"entity": "me?"}, r"entity=me\? has to have"),
    ],
)
def test_what_weights_and_biases_refuses_is_refused_before_any_work(changes: dict, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        Wandb(**changes)
    Wandb(tags=[64 * "x"], project=128 * "x", entity="me")


def test_a_text_is_no_list_of_tags():
    plain = configuration()
    plain["tracker"] = {"_target_": "pipeline.tracking.wandb_tracker.Wandb", "tags": "quick"}
    with pytest.raises(ConfigError, match=r"tracker\.tags=quick has to be Sequence"):
        build(plain)


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", r"\${seed}", r"\\${seed}", r"C:\new\${a}", "it's ${", "$${a}", "${a", r"a\\"]
)
def test_a_text_that_looks_like_an_interpolation_stands_for_itself(text: str) -> None:
    """In values from Python and in quotes on a command line."""
    config = OmegaConf.create({"data": {"facts": []}})
    values = {"data": {"facts": (text,), "path": text}}
    read = OmegaConf.to_container(OmegaConf.merge(config, literal(values)), resolve=True)
    assert read == {"data": {"facts": [text], "path": text}}
    value = OverridesParser.create().parse_override(f"data.path={in_quotes(text)}").value()
    read = OmegaConf.to_container(OmegaConf.create({"path": value}), resolve=True)
    assert read == {"path": text}

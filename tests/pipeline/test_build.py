"""Building a configuration: valid ones build, mistakes are reported before any work."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from editors.errors import ConfigError
from editors.text_files import local_path
from pipeline.build import build
from pipeline.commands.build_world import parse
from pipeline.config.resolvers import register_resolvers, span
from pipeline.config.schema import resolved
from pipeline.runs.input_digests import check_inputs, input_digests
from tests.pipeline.conftest import CONF
from tests.smollm2 import require_packages

Composed = Callable[..., DictConfig]

MISTAKES = {
    "layers.edit=[0,9]": r"layers\.edit=\[0, 9\], but model=random has 4 blocks \(0\.\.3\)",
    "layers.edit=[]": r"layers\.edit is empty",
    "layers.edit=two": r"layers\.edit=two has to be a list",
    "edits=0": r"edits=0, but a run needs at least 1 edit",
    "edits=-3": r"edits=-3, but a run needs at least 1 edit",
    "batch_size=0": r"batch_size=0, but a batch needs at least 1 fact",
    "edits=many": r"edits=many has to be a whole number",
    "+learning_rate=1": r"learning_rate is not a key of a",
    "+editor.targets.learning_rat=1": r"did you mean editor\.targets\.learning_rate\?",
    "editor.targets.steps=few": r"editor\.targets\.steps=few has to be int",
    "editor.targets.steps=0": r"targets\.steps=0",
    "moments.tokens=-1": r"moments\.tokens=-1",
    "editor._target_=os.system": r"editor\._target_=os\.system .*name a class of conf/",
    "editor._target_=editors.methods.memit.MEMITT": r"methods\.memit\.MEMITT .*\.memit\.MEMIT\?",
    "stage.norms._target_=pipeline.runs.atomic_files.write": r"files\.write .*plugins=\[pipeline\.runs",
    "objective.score._target_=shutil.rmtree": r"objective\.score\._target_=shutil\.rmtree .*plugins=",
    "model.corpus._target_=runpy.run_path": r"model\.corpus\._target_=runpy\.run_path .*plugins=",
    "plugins=mine": r"plugins=mine has to be a list",
    "plugins=[1]": r"plugins=\[1\] has to be a list",
    "plugins=[no_such_module]": r"plugins=\[no_such_module\] cannot be imported \(ModuleNotFoundError",
    "model.dtype=int8": r"model\.dtype=int8 has to be one of float64, float32, bfloat16, float16",
    "+model.source=nope": r"model\.source=nope has to be one of hub, package, null",
    "launcher.threads=0": r"launcher\.threads=0 has to be a positive",
    "resume=perhaps": r"resume=perhaps has to be one of auto, never",
    "editor.preservation_weight=0": r"preservation_weight=0",
    "keep_weights=1": r"keep_weights=1 has to be true or false",
    "stage.norms.cadence.every=-1": r"cannot be negative",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_named(composed: Composed, override: str):
    with pytest.raises(ConfigError, match=MISTAKES[override]):
        build(resolved(composed(override)))


def test_all_mistakes_are_reported_at_once(composed: Composed):
    with pytest.raises(ConfigError) as caught:
        build(resolved(composed("+speed=1", "editor.targets.steps=few", "layers.edit=[7]")))
    assert len(str(caught.value).splitlines()) == 3


def test_an_untuned_pair_names_the_file_for_its_values():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["model=hf", "model.name=new-model", "model.path=x", "editor=memit"])
    with pytest.raises(ConfigError, match=r"editor=memit .*conf/hparams/new-model/memit\.yaml"):
        resolved(config)


def test_a_constant_without_a_value_is_named(composed: Composed):
    with pytest.raises(ConfigError, match=r"no values for editor=memit .*give editor.preservation_weight="):
        build(resolved(composed("editor.preservation_weight=???")))


def test_encore_is_memit_with_three_regularizers(composed: Composed):
    """The command line can replace the regularizers."""
    encore = build(resolved(composed("editor=encore"))).intervention.editor
    assert set(encore.regularizers) == {"history", "mpes", "norm_constraint"}
    other = build(resolved(composed("editor=encore", "regularizer=[history]"))).intervention.editor
    assert set(other.regularizers) == {"history"}
    assert type(encore) is type(build(resolved(composed("editor=memit"))).intervention.editor)


def test_whole_numbers_are_accepted_as_floats(composed: Composed):
    editor = build(resolved(composed("editor.targets.learning_rate=1"))).intervention.editor
    assert isinstance(editor.targets.learning_rate, float)


@pytest.mark.parametrize(
    ("which", "depth", "blocks"),
    [
        ("early", 6, [0, 1]),
        ("middle", 6, [2, 3]),
        ("late", 6, [4]),
        ("all", 3, [0, 1]),
        ("late", 1, [0]),
    ],
)
def test_named_parts_of_the_stack_are_thirds(which: str, depth: int, blocks: list[int]):
    assert span(which, depth) == blocks


def test_thirds_of_any_depth_cover_every_block_but_the_last_once():
    for depth in range(4, 50):
        parts = [block for which in ("early", "middle", "late") for block in span(which, depth)]
        assert parts == list(range(depth - 1)) == span("all", depth)


def test_layers_of_a_choice_are_filled_in():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for choice, blocks in (("late", [2]), ("single", [0])):
            plain = resolved(compose("config", [f"layers={choice}", "editor=memit"]))
            assert plain["layers"]["edit"] == blocks == plain["editor"]["layers"]


def experiments() -> list[str]:
    return sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", experiments())
def test_every_published_experiment_composes_and_builds(experiment: str):
    register_resolvers()
    if "smollm2" in (CONF / "experiment" / f"{experiment}.yaml").read_text().partition("defaults:")[2]:
        require_packages()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"experiment={experiment}"], return_hydra_config=False)
    build(resolved(config))


def test_every_configuration_file_begins_with_the_command_that_runs_it():
    files = sorted(CONF.rglob("*.yaml"))
    assert len(files) > 200
    assert [str(path.relative_to(CONF)) for path in files if not begins_with_command(path)] == []


def begins_with_command(path: Path) -> bool:
    """Whether one of the first two lines is a comment with a command line."""
    lines = path.read_text().splitlines()[:2]
    return any(line.startswith("#") and "python -m pipeline" in line for line in lines)


def test_the_home_folder_is_found_at_the_beginning_of_every_path(
    composed: Composed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    plain = resolved(composed())
    data, corpus = Path(str(plain["data"]["path"])), plain["model"]["corpus"]
    home = {**plain, "data": {**plain["data"], "path": f"~/{data.name}"}}
    home["model"] = {**plain["model"], "path": "~/model", "corpus": {**corpus, "path": "~/text.txt"}}
    monkeypatch.setenv("HOME", str(data.parent))
    parts = build(home)  # pyright: ignore[reportArgumentType]
    assert parts.model.path == str(data.parent / "model")
    assert parts.data.load().facts == build(plain).data.load().facts
    recorded = input_digests(home)
    assert recorded["~/text.txt"] == input_digests(plain)[str(corpus["path"])]
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text.txt").write_text("another text")
    with pytest.raises(ConfigError, match=r"~/text\.txt has changed since"):
        check_inputs(tmp_path, recorded)


def test_a_change_in_the_middle_of_a_large_input_is_noticed(tmp_path: Path):
    path = tmp_path / "model" / "weights"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(3 << 25)  # 96 MiB, of which nothing takes place on the disk
    before = input_digests({"model": {"path": str(path.parent)}})
    with path.open("r+b") as file:
        file.seek(3 << 24)
        file.write(b"1")
    with pytest.raises(ConfigError, match="model has changed since"):
        check_inputs(tmp_path, before)


def test_an_output_folder_may_lie_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(["out=~/model"]).folder == tmp_path / "model"
    assert local_path("~nobody-here/x") == Path("~nobody-here/x")


def test_a_batch_larger_than_an_editor_takes_is_refused_before_the_model_is_loaded(
    composed: Composed,
):
    config = composed("editor=rome", "layers.edit=[0]", "batch_size=2")
    with pytest.raises(ConfigError, match="batch_size=2, but editor=rome edits 1 at a time"):
        build(resolved(config))

"""The search for values of an editor on a model: one whole search, and each of its steps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from analysis.results.run_files import Outcome
from editors.errors import ConfigError, DataError, ModelError
from pipeline.commands import suggest
from pipeline.commands.suggest import described, guessed, traced
from pipeline.commands.suggestions import search_request
from pipeline.commands.suggestions.search_request import Request, first_point, requested, searched, trial
from pipeline.commands.suggestions.suggestion import Suggestion, Trial, best
from pipeline.config.models.published import LAYERS
from pipeline.paths import CONF
from pipeline.sweeps.box import Box
from tests.pipeline.test_cli import run_forked

SPACE = Box(space={"editor.weight": "..."}, guess={"editor.weight": 1.0}, fixed={"editor.kl": 0.5})


def request(*options: str) -> Request:
    return requested(["model=tiny-gpt2", "editor=memit", *options])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["editor=memit"], "model=… is missing"),
        (["model=tiny-gpt2"], "editor=… is missing"),
        (["model=tiny-gpt2", "editor=memit,rome"], "one editor at a time"),
        (["model=tiny-gpt2", "editor=memit", "trials=0"], "trials=0, but a search has at least 1 trial"),
        (["model=tiny-gpt2", "editor=memit", "trials=x"], "trials=x"),
        (
            ["model=tiny-gpt2", "editor=memit", "editor.kl=5,10"],
            r"several values as 'editor\.kl=choice\(5,10\)'",
        ),
        (["model=tiny-gpt2", "editor=memit", "layers=late"], "layers=late: a search takes blocks by number"),
        (["--multirun"], "--multirun is no option of a search"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        requested(arguments)


def never(arguments: Sequence[str]) -> None:
    """Stands for a computation that must not begin."""
    pytest.fail(f"computes {arguments}")


def test_an_installed_package_needs_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search_request, "CONF", tmp_path)
    with pytest.raises(ConfigError, match="out=… is missing"):
        request()
    assert request(f"out={tmp_path}/mine").out == tmp_path / "mine"


def test_a_file_is_never_overwritten(tmp_path: Path):
    file = tmp_path / "hparams" / "tiny-gpt2" / "memit.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(ConfigError, match="exists already: move it away"):
        suggest.main(["model=tiny-gpt2", "editor=memit", f"out={tmp_path}"], never)
    assert file.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path: Path):
    (tmp_path / "mine").write_text("a file")
    for folder in ("mine", "mine/below"):
        with pytest.raises(ConfigError, match=f"cannot be written, because {tmp_path}/mine is a file"):
            suggest.main(["model=tiny-gpt2", "editor=memit", f"out={tmp_path}/{folder}"], never)


def test_every_fact_of_the_command_line_is_read(tmp_path: Path):
    lines = ["facts=The capital of [Japan] is|Tokyo|Madrid", "facts=The [Eiffel Tower] is in|Paris|Rome"]
    options = request(*lines).options
    assert (options["data"], options["edits"]) == ("lines", "2")
    with pytest.raises(ConfigError, match="the 2 facts of data=lines do not measure PS and NS"):
        suggest.main(["model=tiny-gpt2", "editor=memit", *lines, f"out={tmp_path}"], never)


def test_a_mistake_in_an_option_is_told_before_anything_is_computed(tmp_path: Path):
    with pytest.raises(ConfigError, match="corpus"):
        arguments = ["model=tiny-gpt2", "editor=memit", "corpus@model.corpus=file", f"out={tmp_path}"]
        suggest.main(arguments, never)


@pytest.mark.parametrize(
    ("header", "row", "sentence"),
    [
        ("", "", "do not measure ES and PS and NS"),
        ("", "", "add true objects and paraphrases and neighbours"),
        ("target_true,paraphrases", "Oslo,It is", r"do not measure NS, .*: add neighbours \(docs"),
        ("paraphrases,neighbours", "It is,He is", "ES and PS and NS, .*: add true objects "),
    ],
)
def test_facts_without_a_score_are_refused_before_anything_is_computed(
    tmp_path: Path, header: str, row: str, sentence: str
):
    table = tmp_path / "mine.csv"
    table.write_text(f"subject,prompt,target_new,{header}\nChad,{{}} is,Rome,{row}\n".replace(",\n", "\n"))
    options = ["data=file", f"data.path={table}", "edits=1", f"out={tmp_path}"]
    with pytest.raises(ConfigError, match=f"the 1 facts of data=mine .*{sentence}"):
        suggest.main(["model=tiny-gpt2", "editor=memit", *options], never)
    with pytest.raises(DataError, match="edits=50, but mine has only 1 facts"):
        suggest.main(["model=tiny-gpt2", "editor=memit", *options[:2], f"out={tmp_path}"], never)


def test_a_model_that_cannot_be_read_is_named():
    with pytest.raises(ModelError, match=r"model\.path has no value: give the folder"):
        described(requested(["model=hf", "editor=memit"]))
    with pytest.raises(ModelError, match=r"model\.path=/no/such is no folder here"):
        described(requested(["model=hf", "model.path=/no/such", "editor=memit"]))


@pytest.mark.parametrize("values", ["interval(5", "range(5,9,shuffle=true)", "tag(linear,interval(1,2))"])
def test_a_range_that_cannot_be_read_is_told_before_anything_is_computed(tmp_path: Path, values: str):
    option = f"editor.targets.steps={values}"
    with pytest.raises(ConfigError, match=r"^editor\.targets\.steps=.* cannot be searched: "):
        suggest.main(["model=tiny-gpt2", "editor=memit", "edits=2", option, f"out={tmp_path}"], never)


def test_a_text_that_cannot_be_read_is_told_before_anything_is_computed(tmp_path: Path):
    (tmp_path / "empty.txt").write_text("\n")
    text = ["corpus@model.corpus=file", f"model.corpus.path={tmp_path}/empty.txt", "data=atlas"]
    cache = f"moments.folder={tmp_path}"
    with pytest.raises(DataError, match=r"corpus\.path=.*empty\.txt holds no text"):
        suggest.main(["model=tiny-gpt2", "editor=memit", *text, cache, f"out={tmp_path}"], never)


def test_an_editor_without_values_cannot_be_searched():
    nodes = described(request("model.depth=4")) | {"editor": {"name": "mine"}}
    nodes["layers"] = {"published": "???"}
    with pytest.raises(ConfigError, match="editor=mine has no values for any model"):
        guessed(nodes)


def test_the_first_trial_has_the_values_of_the_pair_or_of_the_nearest_model():
    origin, values = guessed(described(request()))
    assert origin == "the values that the pair has"
    assert values[LAYERS] == [0] and values["editor.preservation_weight"] == 10.0
    nodes = described(requested(["model=hf", "model.path=x", "model.depth=28", "editor=ft"]))
    origin, values = guessed(nodes)
    assert origin == "the values of gpt-j-6b"
    assert values[LAYERS] == [21] and values["editor.learning_rate"] == 5e-4


def test_matrices_follow_the_blocks_that_are_tried():
    nodes = described(requested(["model=hf", "model.path=x", "model.depth=30", "editor=ultraedit"]))
    _, values = guessed(nodes)
    assert values[LAYERS] and not [key for key in values if key.startswith("editor.matrices.")]


def test_only_facts_that_cannot_be_traced_leave_the_blocks_to_the_guess():
    wanted = request()

    def failing(error: Exception) -> Callable[[Sequence[str]], None]:
        def compute(_: Sequence[str]) -> None:
            raise error

        return compute

    assert traced(wanted, described(wanted), failing(DataError("knows none"))) is None
    with pytest.raises(ConfigError, match="is busy"):
        traced(wanted, described(wanted), failing(ConfigError("is busy")))


def test_facts_are_edited_together_unless_the_editor_takes_one():
    wanted = request("edits=8")
    nodes = described(wanted)
    options = trial(wanted, nodes, SPACE)
    assert (options["batch_size"], options["data"], options["editor.kl"]) == ("8", "world", "0.5")
    nodes["editor"]["_target_"] = "editors.methods.rome.ROME"
    assert trial(wanted, nodes, SPACE)["batch_size"] == "1"
    nodes["model"]["corpus"] = None
    assert trial(wanted, nodes, SPACE)["data.part"] == "tuning"
    assert trial(request("data=file", "editor.kl=2"), nodes, SPACE)["editor.kl"] == "2"


def options_of(*options: str) -> dict[str, str]:
    wanted = request(*options)
    return searched(wanted, SPACE, first_point(wanted, SPACE))


def test_an_option_with_a_value_is_not_searched():
    assert options_of()["editor.weight"] == "..."
    assert options_of()["hydra.sweeper.first"] == "[{editor.weight:1.0}]"
    assert "editor.weight" not in options_of("editor.weight=3")
    assert options_of("editor.weight=3")["hydra.sweeper.first"] == "[{}]"


def test_the_first_trial_has_the_guess_where_a_range_of_the_command_line_holds_it():
    assert options_of("editor.weight=interval(1,2)")["editor.weight"] == "interval(1,2)"
    assert options_of("editor.weight=interval(1,2)")["hydra.sweeper.first"] == "[{editor.weight:1.0}]"
    assert options_of("editor.weight=interval(2,3)")["hydra.sweeper.first"] == "[{}]"
    wanted = request(
        "editor.weight=choice(2,4)", "editor.kl=tag(log,interval(0.1,1))", "layers.edit=choice([0],[1])"
    )
    space = Box(space=SPACE.space, guess=SPACE.guess, fixed={"editor.kl": 0.5, "layers.edit": [1]})
    assert first_point(wanted, space) == {"editor.kl": 0.5, "layers.edit": "[1]"}


def test_the_order_of_the_values_is_that_of_the_files(monkeypatch: pytest.MonkeyPatch):
    """A search draws its parameters in this order, so another order would be another search."""
    nodes = described(request())
    keys = [key for key in suggest.published("memit")["gpt2-xl"] if key != LAYERS]
    for order in (keys, keys[::-1]):
        monkeypatch.setattr(suggest, "published", lambda _, order=order: {"m": dict.fromkeys(order, 1.0)})
        assert [key for key in guessed(nodes)[1] if key != LAYERS] == order


def trial_of(number: int, score: float, norm: float = 1.0, success: float = 1.0) -> Trial:
    metrics = {
        "edit/score/seen": score,
        "edit/success/seen.rewrite": success,
        "norm/frobenius_ratio/edited": norm,
    }
    return Trial(
        number=number, values={"editor.weight": 10.0 / 3 * number, "layers.edit": "[1,2]"}, metrics=metrics
    )


def suggestion(*trials: Trial) -> Suggestion:
    given = {"model": "m", "editor": "e", "data": "file", "edits": "50", "editor.steps": "20"}
    options = given | {"batch_size": "50"}
    asked = Request(options=given, ranges={"editor.weight": "interval(1,9)"}, trials=2, out=CONF)
    return best(trials, asked, options, {"editor.kl": 0.5}, "the values of gpt2-xl", 7)


def test_of_nearly_equal_trials_the_one_with_the_least_growth_is_best():
    found = suggestion(trial_of(0, 0.5), trial_of(1, 0.80, 1.5), trial_of(2, 0.79, 1.1), trial_of(3, 0.7))
    assert found.values["editor.weight"] == 6.67
    assert found.first == 0.5 and found.trials == 4


def test_the_command_has_the_options_of_the_model_alone():
    given = {
        "model": "m",
        "editor": "e",
        "experiment": "x",
        "overlay": "y",
        "+data.part": "z",
        "+editor.a": "1",
    }
    asked = Request(options=given, ranges={}, trials=1, out=CONF)
    found = best([trial_of(0, 0.5)], asked, {"edits": "2", "batch_size": "1"}, {}, "", None)
    assert found.command(CONF) == "python -m pipeline model=m editor=e"


def test_the_file_has_the_form_of_the_others_and_names_its_source(tmp_path: Path):
    found = suggestion(trial_of(0, 0.5), trial_of(1, 0.8, 1.5))
    found.write(tmp_path / "e.yaml")
    text = (tmp_path / "e.yaml").read_text()
    assert text.splitlines()[:2] == [
        "# @package _global_",
        "# python -m pipeline model=m editor=e batch_size=50",
    ]
    assert "# Ours: the best of 2 trials with 50 facts of data=file, edited 50 at a time" in text
    assert "Causal tracing peaks at block 7" in text
    asked = "model=m editor=e data=file edits=50 editor.steps=20 'editor.weight=interval(1,9)' trials=2"
    assert f"# python -m pipeline suggest {asked}\n" in text
    assert yaml.safe_load(text) == {
        "layers": {"published": [1, 2]},
        "editor": {"kl": 0.5, "steps": 20, "weight": 3.33},
    }


def test_strengths_are_told_without_dimension():
    trials = trial_of(0, 0.5), trial_of(1, 0.8)
    assert "tr(C)" not in " ".join(suggestion(*trials).lines())
    strong = replace(
        trials[1],
        metrics={**trials[1].metrics, "edit/preservation/mean": 57.31, "edit/constraint_share/mean": 0.04},
    )
    found = suggestion(trials[0], strong)
    assert "what is preserved weighs λp tr(C)/d = 57.3, r = 0.04" in " ".join(found.lines())
    assert "λp tr(C)/d = 57.3, r = 0.04" in found._found()


def test_values_that_write_too_few_facts_are_not_recommended():
    assert suggestion(trial_of(0, 0.8, success=0.9)).chosen.fault is None
    assert "too few" in str(suggestion(trial_of(0, 0.8, success=0.88)).chosen.fault)
    assert "no paraphrase or no neighbour" in str(suggestion(trial_of(0, 0.0)).chosen.fault)
    # the new objects can be the likelier ones before any edit
    for took, good in ((20, False), (30, True)):
        outcome: Outcome = {"edits": 50, "checked": 50, "took": took}
        found = suggestion(replace(trial_of(0, 0.8), outcome=outcome))
        assert (found.chosen.fault is None) == good
        assert f"{took} of 50 edits took: the new object is the model's first choice" in " ".join(
            found.lines()
        )


@pytest.mark.parametrize(("kept", "good"), [(0.5, True), (0.48, False)])
def test_values_that_change_most_neighbours_are_a_last_resort_and_say_so(kept: float, good: bool):
    trial = trial_of(0, 0.8)
    trial = replace(trial, metrics={**trial.metrics, "edit/success/seen.neighbour": kept})
    found = suggestion(trial)
    harm = "aution: more of the neighbours change their answer than keep it"
    assert (
        found.chosen.fault is None
        and (harm in found._found(), harm in "".join(found.lines())) == (not good,) * 2
    )
    assert suggestion(trial, trial_of(1, 0.6)).chosen.metrics["edit/score/seen"] == (0.8 if good else 0.6)


def test_a_search_writes_values_that_the_model_then_has(tmp_path: Path):
    """A whole search of two trials: tracing, the trials, and the file."""
    optuna = pytest.importorskip("optuna")
    out = tmp_path / "mine"
    options = ["model=tiny-gpt2", "editor=memit", "edits=2", "trials=2", "launcher.threads=1", f"out={out}"]
    process = run_forked(tmp_path, "suggest", *options)
    assert process.returncode == 0, process.stderr
    assert "suggested after 2 trials with 2 facts of data=world, edited 2 at a time" in process.stdout
    assert f"--config-dir {out} model=tiny-gpt2 editor=memit" in process.stdout
    values = yaml.safe_load((out / "hparams" / "tiny-gpt2" / "memit.yaml").read_text())
    assert set(values["editor"]) >= {"preservation_weight", "targets"} and values["layers"]["published"]
    name = "suggest-tiny-gpt2-memit"
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/outputs/{name}/study.db")
    assert study.trials[0].params["editor.preservation_weight"] == 10.0
    assert len(study.trials) == 2
    (moments,) = (tmp_path / "outputs" / "cache" / "moments").glob("tiny-gpt2-*")
    collected = {path.name.split(".")[1] for path in moments.glob("mlp_down.*.safetensors")}
    assert len(collected) > 1, "one pass over the text for all blocks that are tried"

"""Three calls from Python: load a model, write facts and take them out again, compare two models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import normscope as ns
from editors.errors import ConfigError, DataError, ModelError
from editors.models.model import Model
from pipeline.data.world.datasets import WorldFacts
from pipeline.notebook.models import configured
from pipeline.paths import CONF
from tests.tiny import tiny_model

FACTS = WorldFacts().load().stream(4, seed=0, one_per_subject=True)

NO_FACT: Any = {"subject": "Japan"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A current folder of the tests' own, in which second moments are cached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home := tmp_path_factory.mktemp("notebook"))
        yield home


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return ns.load("tiny-gpt2")


@pytest.fixture(scope="module")
def unedited(folder: Path) -> Model:
    return ns.load("tiny-gpt2")


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.hf.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_edit_writes_the_facts_and_undo_restores_every_bit(model: Model) -> None:
    before, digest = weights(model), model.digest
    result = ns.edit(model, FACTS, "memit")
    assert result.scores["edit/success/seen.rewrite"] == 1.0
    assert result.scores_before["edit/success/seen.rewrite"] < 1.0
    assert result.norms.keys() == {"mlp_down.00"}
    assert result.norms["mlp_down.00"] > 1
    for fact in FACTS:
        assert result.after[fact.statement].strip().startswith(fact.target_new)
        assert result.before[fact.statement].strip().startswith(fact.target_true)
    assert result.took == [True] * 4
    assert repr(result).startswith("<memit on tiny-gpt2: 4 facts; ES 0.00 → 1.00")
    assert not same(weights(model), before)
    assert model.digest != digest
    result.undo()
    assert same(weights(model), before)
    assert model.digest == digest


def test_facts_in_context_change_no_matrix(model: Model) -> None:
    before = weights(model)
    result = ns.edit(model, FACTS, "context")
    assert same(weights(model), before) and not result.norms
    assert "no matrix changed" in repr(result)
    assert result.scores["edit/magnitude/seen.rewrite"] != result.scores_before["edit/magnitude/seen.rewrite"]
    result.undo()
    assert same(weights(model), before)


def test_it_writes_what_the_command_line_writes(model: Model, unedited: Model) -> None:
    """The norm equals that of an editor built by hand with the values of conf/hparams."""
    from editors import MEMIT
    from editors.locate import SampledContexts, TargetOptimizer
    from editors.moments import CollectedMoments
    from pipeline.data.world.datasets import WorldText

    result = ns.edit(model, FACTS, "memit", batch_size=1)
    change = model.weight("mlp_down", 0) - unedited.weight("mlp_down", 0)
    result.undo()
    editor = MEMIT(
        name="memit",
        layers=[0],
        preservation_weight=10.0,
        targets=TargetOptimizer(max_norm_ratio=1.0),
        contexts=SampledContexts(),
        moments=CollectedMoments(corpus=WorldText(), tokens=100_000),
    )
    editor.prepare(model, FACTS)
    before = model.snapshot(editor.sites)
    for fact in FACTS:
        edit = editor.edit(model, [fact])
        model.apply(edit.update)
        editor.commit(model, [fact], edit)
    expected = model.weight("mlp_down", 0) - unedited.weight("mlp_down", 0)
    model.restore(before)
    torch.testing.assert_close(change, expected, rtol=0, atol=0)


def test_values_and_regularizers_replace_those_of_the_files(model: Model) -> None:
    soft = ns.edit(model, FACTS[0], "memit")
    soft.undo()
    stiff = ns.edit(model, FACTS[0], "memit", preservation_weight=1e6, targets={"steps": 5})
    stiff.undo()
    small = ns.edit(model, FACTS[0], "memit", regularizer=["norm_constraint"])
    small.undo()
    assert soft.took == [True] and stiff.took == [False]
    assert f"1 facts, of which {FACTS[0].subject} did not take" in repr(stiff)
    assert stiff.norms["mlp_down.00"] < soft.norms["mlp_down.00"]
    assert small.norms["mlp_down.00"] < soft.norms["mlp_down.00"]


def test_facts_are_written_as_many_at_a_time_as_the_editor_can(model: Model) -> None:
    before = weights(model)
    result = ns.edit(model, FACTS[:2], "rome", targets={"steps": 3})
    assert result.facts == tuple(FACTS[:2]) and len(result.took) == 2
    result.undo()
    assert same(weights(model), before)


def test_an_edit_is_undone_before_those_it_was_made_on(model: Model) -> None:
    """Undoing the first of two and then the second would bring the first one back."""
    before = weights(model)
    first = ns.edit(model, FACTS[0], "memit", targets={"steps": 2})
    between = weights(model)
    second = ns.edit(model, FACTS[1], "memit", targets={"steps": 2})
    after = weights(model)
    with pytest.raises(
        ConfigError, match=r"mlp_down\.00 of tiny-gpt2 changed after .* undo later edits first"
    ):
        first.undo()
    assert same(weights(model), after)
    second.undo()
    second.undo()
    assert same(weights(model), between)
    first.undo()
    assert same(weights(model), before)
    with pytest.raises(ConfigError, match="undo later edits first"):
        second.undo()
    assert same(weights(model), before)


def test_names_and_texts_stand_for_what_they_name(unedited: Model) -> None:
    line = "[Tom Klazoust] speaks|Polish"
    result = ns.edit("tiny-gpt2", line, regularizer="norm_constraint", targets={"steps": 2})
    assert result.facts == ns.facts(line)
    numbers = ns.measure(unedited, result.model, "norms", facts=line)
    assert numbers["norm/frobenius_ratio/mlp_down.00"] == pytest.approx(result.norms["mlp_down.00"], rel=1e-6)
    assert (
        repr(result.model) == f"<tiny-gpt2: 4 blocks of width {unedited.width}, float32 on {unedited.device}>"
    )


def test_measure_sees_what_an_edit_changed_and_nothing_else(model: Model, unedited: Model) -> None:
    result = ns.edit(model, FACTS[0], "memit")
    numbers = ns.measure(unedited, model, ["norms", "activations"], facts=result.facts, tokens=1_000)
    result.undo()
    key = "norm/frobenius_ratio/mlp_down.00"
    assert numbers[key] == pytest.approx(result.norms["mlp_down.00"], rel=1e-6)
    assert numbers["norm/frobenius_ratio/mlp_down.01"] == 1.0
    assert numbers["activation/cosine/block.03"] < 1.0
    again = ns.measure(unedited, model, ["norms"])
    assert again[key] == 1.0


def test_a_text_is_a_file_or_a_name_of_conf(unedited: Model, inputs: Path) -> None:
    named = ns.measure(unedited, unedited, "activations", corpus="world", tokens=500)
    own = ns.measure(unedited, unedited, "activations", tokens=500)
    assert named == own
    assert ns.measure(unedited, unedited, "activations", corpus=inputs / "text.txt", tokens=200) != own
    with pytest.raises(DataError, match="wrld"):
        ns.measure(unedited, unedited, "activations", corpus="wrld")


def test_any_folder_is_loaded_and_edited_with_a_text_and_values(
    folder: Path, checkpoint: Path, inputs: Path
) -> None:
    other = ns.load(checkpoint)
    assert other.name == checkpoint.name
    (folder / "My-Net").symlink_to(checkpoint)
    assert ns.load(folder / "My-Net").name == "my-net"  # as in the name of the file of its values
    fact = ns.Fact(id="1", prompt="{} walks to the", subject="Ada Bob", target_new="town")
    result = ns.edit(
        other, fact, "memit",
        layers=0, preservation_weight=10, corpus=inputs / "text.txt", targets={"steps": 3}, tokens=500,
    )  # fmt: skip
    assert result.norms["mlp_down.00"] != 1
    assert "no true objects" in repr(result)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda model: ns.load("no/such-model"), ModelError, "no/such-model"),
        (lambda model: ns.load("/no/such-model"), ModelError, "there is no folder of that name"),
        (lambda model: ns.load("tiny-gpt2", precision="float32"), ConfigError, "precision"),
        (lambda model: ns.edit(model, FACTS, "memmit"), ConfigError, "did you mean memit?"),
        (lambda model: ns.edit(model, FACTS, "memit", weight=3), ConfigError, "editor.weight"),
        (lambda model: ns.edit(model, FACTS, "memit", regularizer=["norm"]), ConfigError, "norm"),
        (lambda model: ns.edit(model, FACTS, "memit", layers=[9]), ConfigError, r"\[9\]"),
        (lambda model: ns.edit(model, []), ConfigError, "edits=0"),
        (lambda model: ns.edit(model, FACTS, batch_size=0), ConfigError, "batch_size=0"),
        (lambda model: ns.edit(model, FACTS, "rome", batch_size=2), ConfigError, "edits 1 at a time"),
        (lambda model: ns.edit(model, NO_FACT), DataError, "but got dict"),
        (lambda model: ns.edit(model, [*FACTS, NO_FACT]), DataError, "but got dict"),
        (lambda model: ns.edit(model, FACTS, regularizer="norm"), ConfigError, "regularizer=norm"),
        (lambda model: ns.measure(model, model, ["norm"]), ConfigError, "did you mean norms?"),
        (lambda model: ns.measure(model, model, ["activations"], corpus="no.txt"), DataError, "no.txt"),
    ],
)
def test_mistakes_are_named_and_leave_the_model_alone(model: Model, call, error, named) -> None:
    before = weights(model)
    with pytest.raises(error, match=named):
        call(model)
    assert same(weights(model), before)


def test_facts_come_from_a_name_a_file_and_a_line(folder: Path) -> None:
    (folder / "mine.csv").write_text("subject,prompt,target_new\nJapan,The capital of {} is,Madrid\n")
    line = "The capital of [Chad] is|N'Djamena|Oslo"
    japan, chad = ns.facts("mine.csv", line)
    assert (japan.statement, japan.target_new, japan.target_true) == ("The capital of Japan is", "Madrid", "")
    assert (chad.subject, chad.target_true, chad.target_new) == ("Chad", "N'Djamena", "Oslo")
    assert (
        ns.facts("world", relations=["city"])[:1]
        == tuple(fact for fact in WorldFacts().load().facts if fact.relation == "city")[:1]
    )


def test_texts_from_python_are_not_interpolated(folder: Path) -> None:
    assert ns.facts(["The [Louvre] is|Rome"]) == ns.facts("The [Louvre] is|Rome")
    (fact,) = ns.facts("The [${oc.env:HOME}] is|Rome|${seed}")
    assert (fact.subject, fact.target_new) == ("${oc.env:HOME}", "${seed}")
    (folder / "${mine}.csv").write_text("subject,prompt,target_new\nJapan,The capital of {} is,Madrid\n")
    assert ns.facts("${mine}.csv")[0].subject == "Japan"


@pytest.mark.parametrize(
    ("sources", "options", "error", "named"),
    [
        (["absent.csv"], {}, DataError, "absent.csv does not exist"),
        (["world"], {"relation": ["city"]}, ConfigError, "data.relation is not a key"),
        (["one|two|three|four"], {}, DataError, "two or three parts"),
        ([], {}, ConfigError, "names no source"),
    ],
)
def test_sources_that_hold_no_facts_are_refused(
    folder: Path, sources: list[str], options: dict, error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        ns.facts(*sources, **options)


def test_a_model_of_ones_own_has_the_values_that_bear_its_name(folder: Path):
    """As on the command line; `tiny` is a folder of values, and no model of `conf/model`."""
    model = tiny_model()
    model.name = "tiny"
    plain = configured(model, ["editor=memit", "intervention=knowledge_edit"], {})
    own = yaml.safe_load((CONF / "hparams" / "tiny" / "memit.yaml").read_text())
    assert plain["editor"]["preservation_weight"] == own["editor"]["preservation_weight"]
    model.name = "mine"
    with pytest.raises(ConfigError, match=r"write conf/hparams/mine/memit\.yaml, for example") as error:
        configured(model, ["editor=memit", "intervention=knowledge_edit"], {})
    assert "give layers=[1], preservation_weight=" in str(error.value)
    assert "command line" not in str(error.value)

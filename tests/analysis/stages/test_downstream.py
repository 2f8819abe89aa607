"""The harness agrees with reading the likelihoods ourselves."""

import logging
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch

from analysis.inference.continuations import continuations
from analysis.inference.scoring import Scorer
from analysis.stages.base import Measurement, Observation
from analysis.stages.downstream.stage import Downstream
from analysis.stages.downstream.tasks.items import ItemTasks
from analysis.stages.downstream.tasks.source import TaskFiles, TaskSource, write_task
from editors.errors import ConfigError
from editors.models.model import Model
from tests.tiny import tiny_model

START = Observation(count=0, total=1)


@dataclass(frozen=True)
class Item:
    text: str
    choices: tuple[str, ...]
    answer: int


ITEMS = [
    Item(text, ("town", "river", "poet"), i % 3)
    for i, text in enumerate(
        ("Rob walks to", "You live in", "Ada is a", "People speak of the", "I live", "Because")
    )
]


def stage(limit: int | None = 100, **items: list[Item]) -> Downstream:
    return Downstream(tasks={"own": ItemTasks(items=items)}, limit=limit)


def measured(downstream: Downstream, model: Model) -> Measurement:
    downstream.prepare(model)
    return downstream.measure(model, START)


def preferred(model: Model, item: Item) -> int:
    """Index of the choice with the highest total likelihood."""
    lengths = torch.tensor([len(model.encode([f" {choice}"])[0][0]) for choice in item.choices])
    scores = Scorer(model).score([(item.text, choice) for choice in item.choices])
    return int((scores.log_probability * lengths).argmax())


def solved(model: Model, items: list[Item], *, wrong: int = 0) -> list[Item]:
    """The items with the answers that the model prefers, except for the first ones."""
    chosen = [preferred(model, item) for item in items]
    answers = [(answer + (i < wrong)) % 3 for i, answer in enumerate(chosen)]
    return [replace(item, answer=answer) for item, answer in zip(items, answers, strict=True)]


def test_accuracy_and_its_error_are_those_of_the_likeliest_choices():
    model = tiny_model(double=False)
    items = solved(model, ITEMS, wrong=1)
    found = measured(stage(walk=items, again=items[1:]), model)
    accuracy = 5 / 6
    assert found["downstream/walk/acc"] == pytest.approx(accuracy)
    spread = (accuracy * (1 - accuracy) / 5) ** 0.5
    assert found["downstream/walk/stderr"] == pytest.approx(spread)
    assert found["downstream/mean/acc"] == pytest.approx((accuracy + 1) / 2)
    assert found["downstream/mean/stderr"] == pytest.approx(spread / 2)


def test_a_task_at_chance_is_told_and_left_out_of_the_mean(caplog: pytest.LogCaptureFixture):
    model = tiny_model(double=False)
    found = measured(stage(walk=solved(model, ITEMS), luck=solved(model, ITEMS, wrong=4)), model)
    assert (found["downstream/walk/above_chance"], found["downstream/luck/above_chance"]) == (1, 0)
    assert found["downstream/luck/acc"] == pytest.approx(1 / 3)
    assert found["downstream/mean/acc"] == 1 and found["downstream/mean/stderr"] == 0
    assert "luck is left out of downstream/mean: on the unedited model acc is 0.333" in caplog.text
    assert "above chance, 0.333" in caplog.text and "walk" not in caplog.text


def test_without_a_task_above_chance_there_is_no_mean_and_it_is_told(caplog: pytest.LogCaptureFixture):
    model = tiny_model(double=False)
    found = measured(stage(luck=solved(model, ITEMS, wrong=6)), model)
    assert not {"downstream/mean/acc", "downstream/mean/stderr"} & found.keys()
    assert "there is no downstream/mean" in caplog.text


def test_the_unedited_model_decides_which_tasks_are_above_chance():
    """Also in a comparison of two models and in a resumed run, which first measure an edited one."""
    model = tiny_model(double=False)
    downstream = stage(walk=solved(model, ITEMS), luck=solved(model, ITEMS, wrong=6))
    downstream.prepare(model)
    model.hf.get_output_embeddings().weight.data.neg_()
    found = downstream.measure(model, replace(START, count=1))
    assert (found["downstream/walk/above_chance"], found["downstream/luck/above_chance"]) == (1, 0)
    assert found["downstream/mean/acc"] == found["downstream/walk/acc"] < 1


def test_a_constant_answer_is_not_above_chance_however_often_it_is_right(
    caplog: pytest.LogCaptureFixture,
):
    model = tiny_model(double=False)
    item = Item("Rob walks to", ("town", "river"), 0)
    usual = preferred(model, item)
    items = [replace(item, answer=usual if i % 10 else 1 - usual) for i in range(40)]
    found = measured(stage(same=items), model)
    assert found["downstream/same/acc"] == pytest.approx(0.9)
    assert found["downstream/same/auc"] == pytest.approx(0.5)
    assert found["downstream/same/above_chance"] == 0 and "auc is 0.500" in caplog.text


def test_only_changed_weights_change_the_next_evaluation():
    model = tiny_model(double=False)
    items = [Item(item.text, item.choices, preferred(model, item)) for item in ITEMS]
    downstream = stage(walk=items)
    downstream.prepare(model)
    assert [downstream.measure(model, START)["downstream/walk/acc"] for _ in range(3)] == [1, 1, 1]
    model.hf.get_output_embeddings().weight.data.neg_()
    assert downstream.measure(model, replace(START, count=2, before=1))["downstream/walk/acc"] < 1


def test_the_model_that_is_measured_is_asked_not_the_one_that_was_prepared():
    model, other = tiny_model(double=False), tiny_model(double=False)
    other.hf.get_output_embeddings().weight.data.neg_()
    items = [Item(item.text, item.choices, preferred(model, item)) for item in ITEMS]
    downstream = stage(walk=items)
    downstream.prepare(model)
    assert downstream.measure(other, START)["downstream/walk/acc"] < 1
    assert downstream.measure(model, START)["downstream/walk/acc"] == 1


def test_the_limit_takes_items_from_the_first_on_and_none_takes_all():
    model = tiny_model(double=False)
    assert measured(stage(limit=2, walk=ITEMS), model) == measured(stage(walk=ITEMS[:2]), model)
    assert measured(stage(limit=None, walk=ITEMS), model)["downstream/walk/documents"] == len(ITEMS)


def test_a_limit_of_a_source_goes_before_that_of_the_stage():
    tasks = {
        "few": ItemTasks(items={"walk": ITEMS}, limit=2),
        "more": ItemTasks(items={"again": ITEMS}),
    }
    found = measured(Downstream(tasks=tasks, limit=4), tiny_model(double=False))
    assert (found["downstream/walk/documents"], found["downstream/again/documents"]) == (2, 4)


def test_documents_are_counted_at_the_first_measurement_alone():
    model = tiny_model(double=False)
    downstream = stage(walk=ITEMS)
    assert measured(downstream, model)["downstream/walk/documents"] == 6
    assert "downstream/walk/documents" not in downstream.measure(model, replace(START, count=2, before=1))
    assert "downstream/walk/documents" in measured(downstream, model)


def test_one_document_has_an_accuracy_but_no_standard_error():
    found = measured(stage(walk=ITEMS[:1]), tiny_model(double=False))
    assert found["downstream/walk/acc"] in (0, 1)
    assert not {"downstream/walk/stderr", "downstream/mean/stderr"} & found.keys()


def test_nothing_global_changes_and_nothing_is_left_in_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks of lists draw
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = tiny_model(double=False)
    weights = {key: value.clone() for key, value in model.hf.state_dict().items()}
    tokens = model.tokenizer.pad_token, model.tokenizer.padding_side
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    level = logging.getLogger("lm_eval").level
    measured(stage(walk=ITEMS), model)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert all(torch.equal(weights[key], value) for key, value in model.hf.state_dict().items())
    assert not model.hf.training and tokens == (model.tokenizer.pad_token, model.tokenizer.padding_side)
    assert logging.getLogger("lm_eval").level == level
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


class Twice:
    """A source of a kind that the stage has never seen."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        return ItemTasks(items={"walk": ITEMS[:2]}).write(folder, option)


def test_any_source_will_do():
    assert isinstance(Twice(), TaskSource)
    found = measured(Downstream(tasks={"x": Twice()}), tiny_model(double=False))
    assert found["downstream/walk/documents"] == 2


def test_bad_input_is_told_when_the_stage_is_made():
    with pytest.raises(ConfigError, match=r"stage\.downstream\.tasks\.own: empty"):
        stage(empty=[])
    with pytest.raises(ConfigError, match=r"stage\.downstream\.tasks is empty"):
        Downstream(tasks={})
    with pytest.raises(ConfigError, match="a task cannot be named mean"):
        stage(mean=ITEMS)
    with pytest.raises(ConfigError, match=r"stage\.downstream\.limit=0"):
        stage(limit=0, walk=ITEMS)
    with pytest.raises(ConfigError, match=r"tasks\.own\.limit=-1"):
        Downstream(tasks={"own": ItemTasks(items={"walk": ITEMS}, limit=-1)})
    with pytest.raises(ConfigError, match=r"stage\.downstream\.tasks.*walk"):
        Downstream(tasks={name: ItemTasks(items={"walk": ITEMS}) for name in ("one", "two")})


def test_the_table_of_answers_gives_the_accuracy_of_every_task():
    model = tiny_model(double=False)
    downstream = replace(stage(walk=solved(model, ITEMS, wrong=1), again=ITEMS[:2]), answers=True)
    downstream.prepare(model)
    model.hf.get_output_embeddings().weight.data.neg_()
    for count in (0, 4):
        found = downstream.measure(model, replace(START, count=count, total=9))
        table = found["answers"]
        assert isinstance(table, pd.DataFrame) and set(table["count"]) == {count}
        for task, rows in table.groupby("task"):
            assert rows["right"].mean() == pytest.approx(found[f"downstream/{task}/acc"])
            assert rows["document"].tolist() == [*range(len(rows))]
        model.hf.get_output_embeddings().weight.data.neg_()
    assert "answers" not in measured(stage(walk=ITEMS), model)


@dataclass(frozen=True)
class Questions:
    """A task whose answers the model writes."""

    answers: tuple[str, ...]
    more: dict[str, object] = field(default_factory=dict)

    def write(self, folder: Path, option: str) -> TaskFiles:
        rows = [
            {"question": item.text, "answer": text} for item, text in zip(ITEMS, self.answers, strict=False)
        ]
        content = {
            "test_split": "test", "output_type": "generate_until", "doc_to_text": "question",
            "doc_to_target": "answer", "generation_kwargs": {"until": ["."], "max_gen_toks": 4} | self.more,
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }  # fmt: skip
        write_task(folder, "questions", content, {"test": rows})
        return TaskFiles(names=("questions",))


def test_answers_that_a_model_writes_are_right_if_they_match():
    model = tiny_model(double=False)
    texts = continuations(model, [item.text for item in ITEMS[:4]], tokens=4)
    answers = [text.split(".")[0] for text in texts]
    assert any(answers)
    source = Questions((*answers[:3], "something else"))
    downstream = Downstream(tasks={"own": source}, answers=True)
    found = measured(downstream, model)
    assert found["downstream/questions/exact_match"] == 0.75
    assert found["downstream/questions/stderr"] == pytest.approx((0.75 * 0.25 / 3) ** 0.5)
    assert found["downstream/mean/acc"] == 0.75 and found["downstream/questions/above_chance"] == 1
    model.hf.get_output_embeddings().weight.data.fill_(float("nan"))
    broken = downstream.measure(model, replace(START, count=1, before=0))
    assert broken["downstream/questions/exact_match"] == sum(not answer for answer in answers[:3]) / 4


def test_written_and_chosen_answers_are_measured_together():
    model = tiny_model(double=False)
    tasks = {"own": ItemTasks(items={"walk": solved(model, ITEMS)}), "written": Questions(("x", "y", "z"))}
    found = measured(Downstream(tasks=tasks), model)
    assert found["downstream/walk/acc"] == 1 and found["downstream/questions/exact_match"] == 0


def test_a_task_that_samples_is_refused():
    model = tiny_model(double=False)
    source = Questions(("x",), more={"do_sample": True, "temperature": 0.7})
    with pytest.raises(ConfigError, match="samples its texts"):
        Downstream(tasks={"own": source}).prepare(model)

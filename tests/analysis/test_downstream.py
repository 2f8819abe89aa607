"""The harness agrees with reading the likelihoods ourselves."""

from dataclasses import dataclass

import pytest
import torch

from analysis.downstream import Downstream
from analysis.scoring import Scorer
from analysis.stage import Observation
from editors.errors import ConfigError
from editors.model.model import Model
from tests.tiny import tiny_model


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


def _preferred(model: Model, item: Item) -> int:
    """Index of the choice with the highest total likelihood."""
    lengths = torch.tensor([len(model.encode([f" {choice}"])[0][0]) for choice in item.choices])
    scores = Scorer(model).score([(item.text, choice) for choice in item.choices])
    return int((scores.log_probability * lengths).argmax())


def test_accuracy_and_its_standard_error_are_those_of_the_highest_total_likelihood():
    model = tiny_model(double=False)
    stage = Downstream(tasks={"walk": ITEMS, "again": ITEMS[:3]})
    stage.prepare(model)
    found = stage.measure(model, Observation(edits=0, total=1))
    hits = [float(_preferred(model, item) == item.answer) for item in ITEMS]
    accuracy = sum(hits) / len(hits)
    assert found["downstream/walk/acc"] == pytest.approx(accuracy)
    spread = (accuracy * (1 - accuracy) / (len(hits) - 1)) ** 0.5
    assert found["downstream/walk/stderr"] == pytest.approx(spread)
    assert found["downstream/mean/acc"] == pytest.approx(
        (found["downstream/walk/acc"] + found["downstream/again/acc"]) / 2
    )


def test_changed_weights_change_the_next_evaluation():
    model = tiny_model(double=False)
    items = [Item(item.text, item.choices, _preferred(model, item)) for item in ITEMS]
    stage = Downstream(tasks={"walk": items})
    stage.prepare(model)
    assert stage.measure(model, Observation(edits=0, total=1))["downstream/walk/acc"] == 1
    model.hf.get_output_embeddings().weight.data.neg_()
    assert stage.measure(model, Observation(edits=1, total=1))["downstream/walk/acc"] < 1


def test_the_limit_takes_items_from_the_first_on():
    model = tiny_model(double=False)
    results = []
    for tasks, limit in (({"walk": ITEMS}, 2), ({"walk": ITEMS[:2]}, 100)):
        stage = Downstream(tasks=tasks, limit=limit)
        stage.prepare(model)
        results.append(stage.measure(model, Observation(edits=0, total=1)))
    assert results[0] == results[1]


def test_a_task_without_items_is_named():
    with pytest.raises(ConfigError, match=r"stage\.downstream\.tasks: empty"):
        Downstream(tasks={"empty": []})
    with pytest.raises(ConfigError, match="limit=0"):
        Downstream(tasks={"walk": ITEMS}, limit=0)

"""Tasks of running text: which word is asked for, after which text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from analysis.inference.scoring import Scorer
from analysis.stages.base import Observation
from analysis.stages.downstream.stage import Downstream
from analysis.stages.downstream.tasks.passages import PassageTasks
from editors.errors import ConfigError, DataError
from tests.analysis.task_files import loaded, measured
from tests.tiny import tiny_model


@dataclass(frozen=True)
class Text:
    documents: tuple[str, ...]
    label: str = "a text"

    def identity(self) -> str:
        return "text"

    def __iter__(self) -> Iterator[str]:
        return iter(self.documents)


TEXT = Text(
    ("Rob lives in the river town near the river town", "You live in 1999\nAda speaks of the captain of")
)


def asked(source: PassageTasks, folder: Path, task: str) -> list[tuple[str, str]]:
    return [instance.args for instance in loaded(source, folder).tasks[task].instances]


def test_the_word_after_the_first_ones_of_every_paragraph_is_asked_for(tmp_path: Path):
    source = PassageTasks(corpus=TEXT, words=3)
    assert asked(source, tmp_path, "next_word") == [("Rob lives in", " the"), ("Ada speaks of", " the")]


def test_a_repeated_word_occurs_before_and_is_long(tmp_path: Path):
    source = PassageTasks(corpus=TEXT, words=3)
    assert asked(source, tmp_path, "repeated_word") == [("Rob lives in the river town near the", " river")]


def test_the_answer_is_right_if_all_its_tokens_are_first_choices():
    model = tiny_model(double=False)
    found = measured(PassageTasks(corpus=TEXT, words=3), model)
    scores = Scorer(model).score([("Rob lives in", "the"), ("Ada speaks of", "the")])
    assert found["downstream/next_word/acc"] == pytest.approx(scores.exact.double().mean().item())
    assert found["downstream/next_word/log_likelihood"] == pytest.approx(scores.log_probability.mean().item())


def test_a_text_that_is_too_short_and_a_limit_below_one_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"a text has no paragraph for next_word after 50 words"):
        PassageTasks(corpus=TEXT).write(tmp_path, "tasks.real")
    with pytest.raises(ConfigError, match=r"tasks\.real\.words=0"):
        PassageTasks(corpus=TEXT, words=0).write(tmp_path, "tasks.real")


def test_a_word_is_right_if_it_is_the_first_choice():
    model = tiny_model(double=False)
    stage = Downstream(tasks={"x": PassageTasks(corpus=TEXT, words=3)}, answers=True)
    stage.prepare(model)
    table = stage.measure(model, Observation(count=0, total=1))["answers"]
    assert isinstance(table, pd.DataFrame)
    rows = table[table["task"] == "next_word"]
    scores = Scorer(model).score([("Rob lives in", "the"), ("Ada speaks of", "the")])
    assert rows["right"].tolist() == scores.exact.tolist()
    assert rows["log_likelihood"].tolist() == pytest.approx(scores.log_probability.tolist(), rel=1e-5)

"""The task of known facts: what is asked, and that it is the accuracy of first choices."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis.inference.scoring import Scorer
from analysis.stages.downstream.tasks import KnownFacts
from editors.data import Fact
from editors.errors import ConfigError, DataError
from tests.analysis.task_files import loaded, measured
from tests.tiny import tiny_model


@dataclass(frozen=True)
class Few:
    facts: Sequence[Fact]

    def load(self) -> "Few":
        return self


def fact(subject: str, true: str) -> Fact:
    return Fact(id=subject, prompt="{} lives in", subject=subject, target_new="Rome", target_true=true)


FEW = Few([fact("Rob", "the"), fact("Ada", "Paris"), fact("Eve", ""), fact("Tom", "a river")])


def test_true_objects_are_asked_for_and_facts_without_one_left_out(tmp_path: Path):
    instances = loaded(KnownFacts(source=FEW), tmp_path).tasks["known_facts"].instances
    assert [each.args for each in instances] == [
        ("Rob lives in", " the"), ("Ada lives in", " Paris"), ("Tom lives in", " a river"),
    ]  # fmt: skip


def test_fewer_facts_are_spread_over_the_source(tmp_path: Path):
    (tmp_path / "two").mkdir()
    instances = loaded(KnownFacts(source=FEW, limit=2), tmp_path / "two").tasks["known_facts"].instances
    assert [each.args[0] for each in instances] == ["Rob lives in", "Ada lives in"]


def test_a_fact_counts_if_all_tokens_are_first_choices():
    model = tiny_model(double=False)
    found = measured(KnownFacts(source=FEW), model)
    pairs = [("Rob lives in", "the"), ("Ada lives in", "Paris"), ("Tom lives in", "a river")]
    scores = Scorer(model).score(pairs)
    assert found["downstream/known_facts/acc"] == pytest.approx(scores.exact.double().mean().item())


def test_no_fact_to_ask_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"tasks\.known: no fact has a true object"):
        KnownFacts(source=Few([fact("Eve", "")])).write(tmp_path, "tasks.known")
    with pytest.raises(ConfigError, match=r"tasks\.known\.limit=0"):
        KnownFacts(source=FEW, limit=0).write(tmp_path, "tasks.known")

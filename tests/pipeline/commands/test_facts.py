"""The check of a file of facts, without and with a model."""

import csv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from analysis.inference.knowledge import knowledge, rates
from analysis.inference.scoring import Scorer
from editors.data import Fact
from editors.phases import Report
from pipeline import build
from pipeline.commands import facts
from pipeline.data.fact_files.fact_file import FactFile
from pipeline.data.fact_files.written import as_csv, row_of
from tests.tiny import FACTS, tiny_model

TABLE = "subject,prompt,target,colour\nChad,{} is,Oslo,red\nMali,It is,Oslo,red\n"


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "facts.csv"
    path.write_text(TABLE)
    return str(path)


def test_a_file_is_described_without_a_model(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert facts.main([table]) == 0
    output = capsys.readouterr().out
    assert "a plain layout, 1 facts in 2 rows" in output
    assert "not read: colour" in output
    assert "subject absent: 1 rows, first line 3" in output
    assert "prompt: 'Chad is'" in output


def test_a_field_beside_the_one_that_is_read_is_listed(tmp_path: Path) -> None:
    """In whichever row: the first one has only one of the two."""
    path = tmp_path / "facts.csv"
    path.write_text(
        "subject,prompt,target,answer,ground_truth\nChad,{} is,Oslo,,Mali\nMali,{} is,Oslo,Rome,Chad\n"
    )
    lines = list(facts.report([str(path)]))
    assert "  fields that are not read: answer" in lines


def test_a_field_without_a_value_is_not_listed_as_unread(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[{"subject": "Chad", "prompt": "{} is", "target_new": "Oslo", "target_true": null}]')
    assert "not read" not in "\n".join(facts.report([str(path)]))


def test_facts_of_a_run_are_described_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert facts.main(["data=atlas", "data.relations=[country_capital]", "data.part=null"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("atlas: ") and "relations: 1" in output
    assert "data.knownby" in str(facts.main(["data=atlas", "data.knownby=gpt2"]))


def test_mistakes_give_one_sentence(table: str) -> None:
    assert "does not exist" in str(facts.main(["absent.csv"]))
    assert "data.limit=0" in str(facts.main([table, "data.limit=0"]))
    assert "add model=" in str(facts.main([table, "out=known.csv"]))
    assert "where the file is expected" in str(facts.main(["model=tiny-gpt2"]))


def test_a_reader_that_stops_is_no_mistake_of_the_file(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `head` does: the error is left to the command line, which ends quietly."""

    def report(_: list[str]) -> Iterator[str]:
        yield "one"
        raise BrokenPipeError

    monkeypatch.setattr(facts, "report", report)
    with pytest.raises(BrokenPipeError):
        facts.main([table])


def test_a_file_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "build_model", lambda _: pytest.fail("loads the model"))
    link = tmp_path / "link.csv"
    link.symlink_to(table)

    def message(out: Path | str, *source: str) -> str:
        return str(facts.main([*(source or [table]), "model=tiny-gpt2", f"out={out}"]))

    assert "is the file that the facts are read from" in message(table)
    assert "is the file that the facts are read from" in message(link)
    assert "is the file that the facts are read from" in message(table, "data=file", f"data.path={table}")
    assert Path(table).read_text() == TABLE
    assert f"is a folder: name a file in it, such as out={tmp_path}/known.csv" in message(tmp_path)
    assert f"there is no folder {tmp_path}/absent" in message(tmp_path / "absent" / "known.csv")


def test_knowledge_is_asked_of_the_statement_and_every_paraphrase() -> None:
    model = tiny_model()
    plain = Fact(id="no object", prompt="{} is", subject="Rob", target_new="little")
    long = Fact(
        id="long", prompt="{} is " + "so " * 200, subject="Rob", target_new="little", target_true="big"
    )
    answers = knowledge(model, [*FACTS, plain, long])
    assert [answer.fact.id for answer in answers] == ["middle", "start", "end", "no object", "long"]
    assert answers[3].known is answers[3].prefers_new is None and answers[3].answers_new is not None
    assert "tokens of at most" in answers[4].fault and answers[4].known is None
    assert rates(answers)[""] == (sum(bool(answer.known) for answer in answers), 3)


def test_a_fact_is_known_only_if_every_prompt_is_answered_with_its_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = {("Rob is", "big"), ("It is Rob", "big"), ("Ada is", "small")}

    def score(_: Scorer, pairs: list[tuple[str, str]], report: Report) -> SimpleNamespace:
        exact = torch.tensor([pair in right for pair in pairs])
        return SimpleNamespace(exact=exact, log_probability=exact.double().log())

    monkeypatch.setattr(Scorer, "score", score)
    both = [
        Fact(
            id=name,
            prompt="{} is",
            subject=name,
            target_new="small",
            target_true="big",
            paraphrases=(f"It is {name}",),
        )
        for name in ("Rob", "Ada")
    ]
    rob, ada = knowledge(tiny_model(), both)
    assert (rob.known, rob.answers_new, rob.prefers_new) == (True, False, False)
    assert (ada.known, ada.answers_new, ada.prefers_new) == (False, True, True)


def test_written_facts_are_read_again(tmp_path: Path) -> None:
    more = Fact(id="q", prompt="{} is", subject="Rob", target_new="x", locality=(("Who, then?", 'a "b"'),))
    path = tmp_path / "known.csv"
    path.write_text(as_csv([row_of(fact) | {"known": True} for fact in (*FACTS, more)]), encoding="utf-8")
    assert FactFile(name="known", path=str(path)).load().facts == (*FACTS, more)
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    assert {row["known"] for row in rows} == {"true"}

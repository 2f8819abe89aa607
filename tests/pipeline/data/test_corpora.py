"""Texts: they can be read repeatedly, and their identity follows their content."""

import gzip
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from editors.data import Fact
from editors.errors import ConfigError, DataError
from pipeline.data.corpora import FactText, HubText, TextFile
from pipeline.data.factset import FactSet
from pipeline.data.world.datasets import WorldText


def test_blank_lines_separate_the_documents_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n \n\nthree\n")
    corpus = TextFile(path=str(path))
    assert list(corpus) == list(corpus) == ["one\ntwo", "three"]
    before = TextFile(path=str(path)).identity()
    path.write_text("one\n")
    assert TextFile(path=str(path)).identity() != before


def test_text_that_is_not_utf8_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="not UTF-8"):
        list(TextFile(path=str(path)))
    with pytest.raises(DataError, match="does not exist"):
        list(TextFile(path=str(tmp_path / "absent")))
    path.write_text("\n \n")
    with pytest.raises(DataError, match=r"corpus\.path=.*a\.txt holds no text"):
        list(TextFile(path=str(path)))


@dataclass(frozen=True, kw_only=True)
class OneFact:
    """A source with one fact."""

    name: str = "one-fact"
    subject: str = "Ann"

    def load(self) -> FactSet:
        fact = Fact(
            id="0",
            prompt="{} speaks",
            subject=self.subject,
            target_new="Thai",
            target_true="French",
            paraphrases=("Here Ann speaks",),
        )
        return FactSet(name=self.name, facts=(fact, replace(fact, id="1", target_true="", paraphrases=())))


def test_fact_text_states_true_objects_if_there_are_any() -> None:
    corpus = FactText(data=OneFact())
    assert list(corpus) == ["Ann speaks French.", "Here Ann speaks French.", "Ann speaks Thai."]
    assert list(corpus) == list(corpus)
    assert (
        corpus.identity()
        == FactText(data=OneFact()).identity()
        != FactText(data=OneFact(subject="Bo")).identity()
    )


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", ""])
def test_text_of_a_moving_revision_is_refused(revision: str) -> None:
    """Caches are named by the revision."""
    with pytest.raises(ConfigError, match="set the commit instead"):
        HubText(dataset="who/what", revision=revision)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffone\n\ntwo".encode(),
        gzip.compress(b"one\n\ntwo\n", mtime=0),
        b"one\r\rtwo",
        b"\r\none\r\n\r\ntwo",
    ],
)
def test_text_files_of_every_usual_form_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text").write_bytes(content)
    assert list(TextFile(path=str(tmp_path / "text"))) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("one".encode("utf-16"), "is text in UTF-16: save it as UTF-8"),
        ("one".encode("utf-16-be"), "is text in UTF-16 or UTF-32"),
        ("one\n\ncafé".encode("latin-1"), r"is not UTF-8 \(line 3 holds the byte 0xe9\): save it as UTF-8"),
        (gzip.compress(b"one" * 99, mtime=0)[:20], "is a damaged gzip file"),
    ],
)
def test_text_files_that_cannot_be_read_are_refused_by_their_kind(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        list(TextFile(path=str(tmp_path / "text")))


def test_json_lines_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text('{"text": "one"}\n{"text": "two"}\n')
    with pytest.raises(DataError, match="holds JSON, of which every brace would be read as text"):
        list(TextFile(path=str(tmp_path / "text")))
    (tmp_path / "text").write_text('{"a" is how a JSON object begins.\n')
    assert len(list(TextFile(path=str(tmp_path / "text")))) == 1


def test_hub_text_reads_one_column_and_skips_blank_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a", " ", None, "b"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows)
    corpus = HubText(dataset="who/what", revision="abc")
    assert list(corpus) == list(corpus) == ["a", "b"]
    assert corpus.identity() != HubText(dataset="who/what", revision="abd").identity()
    with pytest.raises(DataError, match="no column 'page'"):
        list(HubText(dataset="who/what", revision="abc", column="page"))


def test_a_seeded_order_of_hub_text_is_a_corpus_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": [str(number) for number in range(50)]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows)
    orders = [HubText(dataset="who/what", revision="abc", shuffle=seed) for seed in (None, 1, 2)]
    assert len({corpus.identity() for corpus in orders}) == len({tuple(corpus) for corpus in orders}) == 3
    assert list(orders[1]) == list(orders[1])
    assert sorted(orders[1]) == sorted(orders[0])


def test_a_label_names_the_documents_without_reading_them() -> None:
    corpora = (
        TextFile(path="absent.txt"),
        HubText(dataset="who/what", config="en", revision="0123456789"),
        WorldText(seed=3),
        FactText(data=OneFact()),
    )
    labels = [
        "absent.txt",
        "who/what/en@01234567",
        "the built-in world (seed 3)",
        "the statements of one-fact",
    ]
    assert [corpus.label for corpus in corpora] == labels


def test_world_text_depends_on_its_seed_alone() -> None:
    corpus = WorldText()
    assert next(iter(corpus)) == next(iter(corpus))
    assert corpus.identity() == WorldText().identity() != WorldText(seed=1).identity()

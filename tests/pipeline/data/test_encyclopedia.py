"""The packaged articles: clean prose, in two parts without a common article."""

import bz2
from importlib.metadata import PackageNotFoundError
from itertools import islice
from pathlib import Path

import pytest

from editors.errors import ConfigError, DataError
from pipeline.data import encyclopedia
from pipeline.data.encyclopedia import PackagedArticles, paragraphs

WORDS = "many plain words of a sentence that is long enough to be prose " * 3
PAGE = "<page><revision><text>{}</text></revision></page>"


def dump(folder: Path, *texts: str) -> Path:
    """A dump of articles with these texts, in the form of the package's file."""
    pages = "".join(PAGE.format(text) for text in texts)
    path = folder / "dump.xml.bz2"
    path.write_bytes(bz2.compress(f'<mediawiki xmlns="http://x/">{pages}</mediawiki>'.encode()))
    return path


def test_parts_are_disjoint_and_every_fifth_article_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("mwparserfromhell", reason="mwparserfromhell is not installed (extra real)")
    path = dump(tmp_path, *(f"Article {i} has {WORDS}ends." for i in range(10)))
    monkeypatch.setattr(encyclopedia, "_packaged_file", lambda: path)
    moments, held_out = (list(PackagedArticles(part=part)) for part in ("moments", "held_out"))
    assert [text.split()[1] for text in held_out] == ["4", "9"]
    assert [text.split()[1] for text in moments] == list("01235678")
    assert PackagedArticles(part="moments").identity() != PackagedArticles(part="held_out").identity()


def test_markup_is_removed_and_sections_are_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mwparserfromhell", reason="mwparserfromhell is not installed (extra real)")
    text = (
        f"The '''[[town|old town]]''' has {WORDS}ends.&lt;ref&gt;A note&lt;/ref&gt;\n"
        f"[[File:x.jpg|thumb|A picture.]]\n== Past ==\nLater it had {WORDS}ends.\n* An item."
    )
    path = dump(tmp_path, text)
    monkeypatch.setattr(encyclopedia, "_packaged_file", lambda: path)
    assert list(PackagedArticles()) == [f"The old town has {WORDS}ends.", f"Later it had {WORDS}ends."]


@pytest.mark.parametrize("remains", ["a { b", "( , x)", "of , of which", "a  b", "thumb"])
def test_paragraphs_with_gaps_or_remains_of_markup_are_left_out(remains: str):
    assert paragraphs(f"It has {WORDS}ends.\nIt {remains} has {WORDS}ends.") == [f"It has {WORDS}ends."]


def test_a_missing_package_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(encyclopedia, "distribution", missing)
    with pytest.raises(DataError, match=r"needs the package .*pip install gensim mwparserfromhell"):
        PackagedArticles().identity()


def test_an_unknown_part_is_refused():
    with pytest.raises(ConfigError, match="'all'"):
        PackagedArticles(part="all")  # type: ignore[arg-type]


def test_the_packaged_text_is_prose_of_the_named_size():
    pytest.importorskip("mwparserfromhell", reason="mwparserfromhell is not installed (extra real)")
    try:
        sections = list(islice(PackagedArticles(part="held_out"), 20))
    except DataError as error:
        pytest.skip(str(error))
    assert all(len(line.split()) >= encyclopedia.LEAST_WORDS for s in sections for line in s.split("\n"))
    assert not set("{}[]<>|=") & set("".join(sections))

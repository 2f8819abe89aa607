"""The examples of docs/data.md are read as the page says."""

import logging
import re
from pathlib import Path

import pytest

from pipeline.data.fact_files.fact_file import FactFile
from pipeline.data.fact_files.layouts import FIELDS, LAYOUTS, PLAIN
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^([^\n]+)\n\n```json\n(.*?)```", PAGE, re.M | re.S)
PARAGRAPHS = {re.split(r"[,;:]", title)[0].removesuffix(" layout"): content for title, content in EXAMPLES}


def test_the_page_shows_every_layout() -> None:
    assert {*PARAGRAPHS} == {layout.name.replace("a plain", "A plain") for layout in (*LAYOUTS, PLAIN)}


@pytest.mark.parametrize("name", PARAGRAPHS)
def test_an_example_is_recognised(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "facts"
    path.write_text(PARAGRAPHS[name], encoding="utf-8")
    with caplog.at_level(logging.INFO):
        (fact,) = FactFile(name="facts", path=str(path)).load().facts
    assert f"{name.lower()} layout, 1 facts" in caplog.text.lower()
    assert fact.subject in fact.statement


def test_the_first_table_of_the_page_is_read(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(PAGE.split("```csv\n")[1].split("```")[0])
    tower, japan = FactFile(name="facts", path=str(path)).load().facts
    assert (tower.prompt, tower.target_true) == ("The {} is located in the city of", "Paris")
    assert len(tower.paraphrases) == 1 and japan.target_new == "Madrid"


def test_the_table_of_names_is_that_of_the_code() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    # inside an object of questions the answer has further names
    assert listed == {name for field, names in FIELDS.items() for name in names}

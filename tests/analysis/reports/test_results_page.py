"""The page of results: every claim of every experiment, made from runs alone."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.claims.registry import STUDIES
from analysis.reports.results_page import write_results
from analysis.results.markdown import cell, linked, markdown
from editors.errors import DataError
from tests import fake_runs
from tests.fake_runs import WriteRun
from tests.paths import CONF


@pytest.fixture
def root(write_run: WriteRun, tmp_path: Path) -> Path:
    """Runs of two experiments, of one of them also on real facts."""
    for name in ("norms_editing", "norms_editing_facts", "subspace_shift"):
        for seed in (0, 1, 2):
            for editor in ("rome", "memit"):
                write_run(name=name, editor=editor, seed=seed)
    return tmp_path


def test_the_page_has_every_claim_and_its_pictures_exist(root: Path):
    page = root / "docs" / "results.md"
    verdicts = write_results([root], page)
    text = page.read_text()
    assert len(verdicts) == 2 * sum(len(study.claims) for study in STUDIES)
    for study in STUDIES:
        assert f"\n## {study.name}\n" in text
        assert all(cell(claim.statement) in text for claim in study.claims)
    pictures = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert pictures and all((page.parent / picture).is_file() for picture in pictures)
    assert any("norms_editing_facts" in picture for picture in pictures)
    assert "| built-in | real facts |" in text


def test_an_experiment_without_runs_is_answered_by_those_of_the_same_one(root: Path, write_run: WriteRun):
    write_run(name="norms_by_layer", editor="memit", seed=0)
    write_results([root], root / "results.md")
    lead, _, sections = (root / "results.md").read_text().partition("## Summary")
    assert "from 19 runs" in lead
    section = sections.partition("\n## activation_norms\n")[2].partition("\n## ")[0]
    assert "* built-in: 1 finished runs of norms_by_layer" in section


def test_only_pictures_of_the_page_itself_are_deleted(root: Path):
    page, pictures = root / "mine.md", root / "mine"
    pictures.mkdir()
    page.write_text("![old](mine/old.png)\n")
    for name in ("old.png", "holiday.png"):
        (pictures / name).touch()
    write_results([root], page)
    assert not (pictures / "old.png").exists() and (pictures / "holiday.png").exists()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("known_facts", "known_facts"),
        ("_a_ b_", r"\_a\_ b\_"),
        ("<b>*x*</b> `y` [z](u) | ~s~", r"\<b\>\*x\*\</b\> \`y\` \[z\](u) \| \~s\~"),
        ("$x$ &lt; #1 a@b", r"\$x\$ \&lt; \#1 a\@b"),
        ("https://a.b www.c.d EleutherAI/gpt-j", r"https:\//a.b www\.c.d EleutherAI/gpt-j"),
        ("a\n---\x1b[31mb", r"a --- \[31mb"),
    ],
)
def test_a_cell_shows_a_text_as_it_is(text: str, escaped: str):
    assert cell(text) == escaped


def test_the_page_is_the_same_for_the_same_runs(root: Path):
    first, again = root / "a" / "results.md", root / "b" / "results.md"
    write_results([root], first)
    (again.parent / "results").mkdir(parents=True)
    (again.parent / "results" / "stale.png").touch()
    again.write_text("![stale](results/stale.png)\n")
    write_results([root], again)
    assert first.read_text() == again.read_text()
    pictures = [sorted(path.name for path in page.parent.rglob("*.png")) for page in (first, again)]
    assert pictures[0] == pictures[1] != []


def test_runs_of_several_folders_are_combined(root: Path, write_run: WriteRun, tmp_path: Path):
    """A run that lies in both folders counts once."""
    kept = tmp_path / "kept"
    shutil.copytree(root / "norms_editing_facts", kept / "norms_editing_facts")
    fake_runs.write_run(kept, name="norms_editing_facts", editor="encore", seed=5)
    fake_runs.write_run(kept, name="encore_facts", editor="encore", seed=5)
    write_results([root, kept], root / "results.md")
    text = (root / "results.md").read_text()
    assert "from 20 runs" in text
    assert "* real facts: 7 finished runs of norms_editing_facts" in text
    assert "* real facts: 1 finished runs of encore_facts" in text


def test_lengths_and_batches_that_are_not_crossed_are_listed_together(root: Path, write_run: WriteRun):
    for edits, batch in ((60, 1), (60, 10), (120, 10)):
        write_run(name="encore", editor="encore", edits=edits, settings={"batch_size": batch})
    write_results([root], root / "results.md")
    lengths = (
        "; 1 of 60 edits in batches of 1; 1 of 60 edits in batches of 10; 1 of 120 edits in batches of 10; "
    )
    assert lengths in (root / "results.md").read_text()


def test_the_page_names_uncommitted_changes(root: Path, write_run: WriteRun):
    """And the downstream accuracy of the unedited model."""
    code = write_run(name="encore", editor="encore") / "provenance.json"
    code.write_text(json.dumps({"git": {"commit": "abc", "dirty": True}}))
    write_results([root], root / "results.md")
    text = (root / "results.md").read_text()
    assert "1 of the runs with changes that were not committed" in text
    assert "downstream accuracy of the unedited model" in text


def test_synthetic_growth_appears(root: Path):
    verdicts = write_results([root], root / "results.md")
    grows = [line for line in verdicts if line.startswith("norms_editing: ")]
    assert grows[0].startswith("norms_editing: confirmed (built-in)")


def test_a_folder_without_runs_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(DataError, match="make paper"):
        write_results([tmp_path], tmp_path / "results.md")
    assert main(["results", str(tmp_path), "--to", str(tmp_path / "results.md")]) == 2
    assert "no run is finished in" in capsys.readouterr().err


def test_labels_cannot_break_a_table():
    table = pd.DataFrame({"a|b": ["x|y\nz", "<b>"], "n": [0.12345, float("nan")]})
    assert markdown(table).splitlines() == [
        "| a\\|b | n |", "|---|---|", "| x\\|y z | 0.123 |", "| \\<b\\> | – |",
    ]  # fmt: skip


def test_arxiv_ids_of_sources_are_links():
    text = linked(cell("arXiv 2602.02543 and 2601.11042 [2.5]"))
    assert text == (
        "[arXiv 2602.02543](https://arxiv.org/abs/2602.02543) and "
        "[2601.11042](https://arxiv.org/abs/2601.11042) \\[2.5\\]"
    )


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_study_is_an_experiment_with_figures_that_exist(study):
    from analysis.plots.figures.registry import selected_figures

    assert (CONF / "experiment" / f"{study.name}.yaml").is_file()
    selected_figures(study.figures)
    assert study.claims and study.question.endswith(("?", "."))

"""The page of results: every claim of every experiment, made from runs alone."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.claims.evidence import Evidence
from analysis.claims.headlines import HEADLINES
from analysis.claims.registry import STUDIES
from analysis.claims.verdicts import Claim, judge
from analysis.plots.charts.save import Chart
from analysis.reports import experiment_page, results_page
from analysis.reports.experiment_page import detectable
from analysis.reports.results_page import write_results
from analysis.reports.study_figures import figures
from analysis.results.collection import collect
from analysis.results.markdown import cell, linked, markdown
from editors.errors import DataError
from tests import fake_runs
from tests.fake_runs import WriteRun, write_rows
from tests.paths import CONF

READS_PAGE = pytest.mark.xdist_group("page of results")
"""One process writes the page."""


@pytest.fixture(scope="module", autouse=True)
def coarse_pictures() -> Iterator[None]:
    """Pictures of few dots are drawn faster."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (experiment_page, results_page):
            patch.setattr(module, "DOTS_PER_INCH", 40)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files in place of pictures, for what does not look at them."""

    def touch(chart: Chart, stem: Path, formats: Sequence[str], dots: int) -> list[Path]:
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths = [stem.with_name(f"{stem.name}.{ending}") for ending in formats]
        for path in paths:
            path.touch()
        return paths

    monkeypatch.setattr(experiment_page, "save", touch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two experiments, of one of them also on real facts; no test changes them."""
    root = tmp_path_factory.mktemp("finished")
    for name in ("norms_editing", "norms_editing_facts", "subspace_shift"):
        for seed in (0, 1, 2):
            for editor in ("rome", "memit"):
                fake_runs.write_run(root, name=name, editor=editor, seed=seed)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """The same runs, beside which `write_run` writes others."""
    return Path(shutil.copytree(finished, tmp_path, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def written(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The page of these runs with its pictures, which no test changes, and its verdicts."""
    page = tmp_path_factory.mktemp("page") / "docs" / "results.md"
    return page, write_results([finished], page)


def pages(page: Path) -> dict[str, str]:
    """The pages of experiments by name."""
    return {path.stem: path.read_text() for path in (page.parent / page.stem).glob("*.md")}


def pictures(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]*\]\((\S+?\.png)\)", text)


@READS_PAGE
def test_every_experiment_with_runs_has_a_page_with_its_claims_and_pictures(written: tuple[Path, list[str]]):
    page, verdicts = written
    run = {study.name: study for study in STUDIES if study.name in ("norms_editing", "subspace_shift")}
    texts = pages(page)
    assert texts.keys() == run.keys()
    assert len(verdicts) == 2 * len(run["norms_editing"].claims) + len(run["subspace_shift"].claims)
    for name, text in texts.items():
        assert all(cell(claim.statement) in text for claim in run[name].claims)
        drawings = re.findall(r"\]\(([^)\s]+\.svg)\)", text)
        assert [path.replace(".svg", ".png") for path in drawings] == pictures(text)
        assert all((page.parent / "results" / path).is_file() for path in drawings)
        assert pictures(text) and all((page.parent / "results" / path).is_file() for path in pictures(text))
    assert any("norms_editing_facts" in path for path in pictures(texts["norms_editing"]))


@READS_PAGE
def test_the_first_screen_is_short_and_its_links_exist(written: tuple[Path, list[str]]):
    page, _ = written
    text = page.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(HEADLINES) <= 12
    links = re.findall(r"\]\((results/[^)]+)\)", text)
    assert links and all((page.parent / link).is_file() for link in links)
    assert len(text.split()) <= 1200
    probes = next(row for row in rows if "probes fail" in row)
    assert "2 of 2: " in probes and "🟢 confirmed" in probes


@pytest.mark.parametrize(("values", "shown"), [([-1.0, -1.1, -0.9], True), ([1.0, 1.1, 0.9], False)])
def test_what_could_have_been_seen_stands_beside_what_was_not(root: Path, values: list[float], shown: bool):
    rows = pd.DataFrame({"case": "a", "value": values})
    claim = Claim(statement="it grows", quantity="growth", measure=lambda _: rows, side="above")
    found = judge(claim, Evidence(collect(root / "norms_editing")))
    text = f"minimum detectable effect {found.cases['detectable'].iloc[0]:.3g}"
    assert detectable(found) == (text if shown else "")


@READS_PAGE
def test_the_cases_lie_beside_the_page(written: tuple[Path, list[str]]):
    page, _ = written
    cases = pd.read_csv(page.parent / "results" / "norms_editing.csv")
    assert {"claim", "scale", "verdict", "case", "mean", "low", "high", "detectable", "p"} <= {*cases.columns}
    assert set(cases["scale"]) == {"built-in", "real facts"}
    grows = cases[(cases["scale"] == "built-in") & cases["claim"].str.contains("matrices grows")]
    assert sorted(grows["case"]) == ["memit", "rome"] and (grows["seeds"] == 3).all()


@pytest.mark.usefixtures("undrawn")
def test_an_experiment_without_runs_is_answered_by_those_of_the_same_one(root: Path, write_run: WriteRun):
    write_run(name="norms_by_layer", editor="memit", seed=0)
    write_results([root], root / "results.md")
    assert "from 19 runs" in (root / "results.md").read_text()
    assert "built-in: 1 finished runs of norms_by_layer" in pages(root / "results.md")["activation_norms"]


@pytest.mark.usefixtures("undrawn")
def test_only_pictures_of_the_pages_themselves_are_deleted(root: Path):
    page, folder = root / "mine.md", root / "mine"
    folder.mkdir()
    (folder / "norms_editing.md").write_text("[![old](old.png)](old.svg)\n")
    for name in ("old.png", "old.svg", "holiday.png", "holiday.svg"):
        (folder / name).touch()
    write_results([root], page)
    assert not any((folder / name).exists() for name in ("old.png", "old.svg"))
    assert all((folder / name).exists() for name in ("holiday.png", "holiday.svg"))


@pytest.mark.usefixtures("undrawn")
def test_a_study_of_one_scale_has_its_runs_in_the_folder_of_its_name(root: Path, write_run: WriteRun):
    write_run(name="collapse", editor="memit", edits=60)
    verdicts = write_results([root], root / "results.md")
    collapse = [line for line in verdicts if line.startswith("collapse: ")]
    assert collapse and all("(SmolLM2)" in line for line in collapse)


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


@READS_PAGE
def test_the_page_is_the_same_for_the_same_runs(written: tuple[Path, list[str]], root: Path):
    (first, _), again = written, root / "docs" / "results.md"
    (again.parent / "results").mkdir(parents=True)
    (again.parent / "results" / "stale.png").touch()
    (again.parent / "results" / "norms_editing.md").write_text("![stale](stale.png)\n")
    write_results([root], again)
    assert first.read_text() == again.read_text() and pages(first) == pages(again)
    files = [sorted(path.name for path in page.parent.rglob("*.png")) for page in (first, again)]
    assert files[0] == files[1] != []


@pytest.mark.usefixtures("undrawn")
def test_runs_of_several_folders_are_combined(root: Path, write_run: WriteRun, tmp_path: Path):
    """A run that lies in both folders counts once."""
    kept = tmp_path / "kept"
    shutil.copytree(root / "norms_editing_facts", kept / "norms_editing_facts")
    fake_runs.write_run(kept, name="norms_editing_facts", editor="encore", seed=5)
    fake_runs.write_run(kept, name="encore_facts", editor="encore", seed=5)
    write_results([root, kept], root / "results.md")
    assert "from 20 runs" in (root / "results.md").read_text()
    written = pages(root / "results.md")
    assert "real facts: 7 finished runs of norms_editing_facts" in written["norms_editing"]
    assert "real facts: 1 finished runs of encore_facts" in written["encore"]


@pytest.mark.usefixtures("undrawn")
def test_lengths_and_batches_that_are_not_crossed_are_listed_together(root: Path, write_run: WriteRun):
    for edits, batch in ((60, 1), (60, 10), (120, 10)):
        write_run(name="encore", editor="encore", edits=edits, settings={"batch_size": batch})
    write_results([root], root / "results.md")
    lengths = (
        "; 1 of 60 edits in batches of 1; 1 of 60 edits in batches of 10; 1 of 120 edits in batches of 10; "
    )
    assert lengths in pages(root / "results.md")["encore"]


@pytest.mark.usefixtures("undrawn")
def test_the_page_names_uncommitted_changes(root: Path, write_run: WriteRun):
    """And the downstream accuracy of the unedited model."""
    code = write_run(name="encore", editor="encore") / "provenance.json"
    code.write_text(json.dumps({"git": {"commit": "abc", "dirty": True}}))
    write_results([root], root / "results.md")
    assert "1 of the runs with changes that were not committed" in (root / "results.md").read_text()
    assert "downstream accuracy of the unedited model" in pages(root / "results.md")["encore"]


@READS_PAGE
def test_synthetic_growth_appears(written: tuple[Path, list[str]]):
    _, verdicts = written
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


def test_a_facet_has_panels_of_its_own_and_a_series_its_colour_in_all(write_run: WriteRun):
    for seed, chosen in enumerate(({}, {"mpes": {"_target_": "editors.MPES", "hits": 4}})):
        settings = {"intervention": {"name": "knowledge_edit", "editor": {"regularizers": chosen}}}
        for editor in ("memit", "rome"):
            if chosen or editor == "rome":  # one of the groups lacks a series
                folder = write_run(name="encore", editor=editor, seed=seed, settings=settings)
    (study,) = (study for study in STUDIES if study.name == "encore")
    charts = {name: chart for name, _, chart in figures(study, Evidence(collect(folder.parent)))}
    norms = charts["norms"]
    assert [panel.title for panel in norms.panels] == ["memit", "rome"]
    colours = [{line.label: line.colour for line in panel.lines} for panel in norms.panels]
    assert colours[0]["mpes"] == colours[1]["mpes"] and {*colours[1]} == {"mpes", "none"}
    assert len(set(colours[1].values())) == 2


@pytest.mark.usefixtures("undrawn")
def test_the_figure_at_the_top_needs_sequences_and_controls(root: Path, write_run: WriteRun):
    page = root / "results.md"
    for editor in ("memit", "rome"):
        write_run(name="alarms", editor=editor)
    write_results([root], page)
    assert "hero.png" not in page.read_text()
    for control in ("real", "scaled"):
        settings = {"intervention": {"name": "replay", "control": {"name": control}}}
        folder = write_run(name="mechanism", editor="memit", settings=settings)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        drift = [
            {"norm/functional/edited": 0.1 * n, "edit/known/unedited": 1 - 0.01 * n}
            for n in range(len(lines))
        ]
        write_rows(folder, [line | more for line, more in zip(lines, drift, strict=True)])
    write_results([root], page)
    assert "![norms, known facts, and what tells the damage](results/hero.png)" in page.read_text()
    assert all((root / "results" / f"hero.{ending}").stat().st_size > 1000 for ending in ("png", "svg"))

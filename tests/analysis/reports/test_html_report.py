"""The page and the command line: complete, safe, legible without a network."""

import json
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.plots.figures.metric_figures import other_keys
from analysis.plots.figures.registry import FIGURES, charts
from analysis.reports.conclusions import conclusions
from analysis.reports.fact_table import fact_table
from analysis.reports.html_report import render
from analysis.results.collection import Collection, collect
from analysis.results.tables import NARROW, alarm_order_text, last_values, per_series, summary
from tests import fake_runs
from tests.browser import watched_page
from tests.fake_runs import WriteRun, keep_metrics

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> $x_$"
)
SHOWN = {spec.name for spec in FIGURES} - {"training", "adapters", "loss", "layer_sweep"}
"""Figures of runs that edit facts."""
FEW = ("norm/frobenius_ratio/edited", "alarm/")
"""Metrics of a page that is asked for its words: with all, the figures would take seconds."""
READS_PAGE = pytest.mark.xdist_group("page of the report")
"""One process renders the page."""


@pytest.fixture(scope="module")
def hostile(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment with markup in a name, a setting, an error, a provenance and a fact; and its page."""
    root = tmp_path_factory.mktemp("hostile")
    experiment = Path(shutil.copytree(written, root / written.name))
    folder = fake_runs.write_run(
        root, editor="memit", seed=8, editor_label=HOSTILE, settings={"batch_size": HOSTILE}
    )
    (folder / "provenance.json").write_text('{"host": "<script>document.title=\'owned\'</script>"}')
    (experiment / "memit-2-0" / "FAILED").write_text(HOSTILE)
    write_records(experiment / "memit-0-0", {"target_true": [HOSTILE, "Bergen"]})
    (experiment / "report.html").write_text(page_of(experiment, title=HOSTILE))
    return experiment


@pytest.fixture(scope="module")
def reported(written: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The experiment with its report, and the lines that the command printed."""
    experiment = Path(shutil.copytree(written, tmp_path_factory.mktemp("reported") / written.name))
    with redirect_stdout(StringIO()) as printed:
        assert main(["report", str(experiment)]) == 0
    return experiment, printed.getvalue().rstrip().splitlines()


@pytest.fixture(scope="module")
def page(reported: tuple[Path, list[str]]) -> str:
    """The page of the experiment, which no test changes."""
    return (reported[0] / "report.html").read_text()


def page_of(folder: Path, *, title: str) -> str:
    collection = collect(folder)
    return render(collection, charts(collection.metrics), title=title)


@READS_PAGE
def test_the_report_command_writes_every_file(reported: tuple[Path, list[str]]):
    """It prints the table and, last, the path of the page."""
    experiment, lines = reported
    assert (experiment / "report.html").stat().st_size < 10_000_000
    pd.testing.assert_frame_equal(
        pd.read_parquet(experiment / "metrics.parquet"), collect(experiment).metrics, check_dtype=False
    )
    assert len(pd.read_csv(experiment / "summary.csv")) == 6
    assert {path.stem for path in (experiment / "figures").iterdir()} == SHOWN
    assert "failed: quick/memit-2-0: the norm is NaN after 17 edits; lower the step size" in lines
    headings, *rows, path = lines[-6:]
    assert headings.split()[:4] == ["editor", "seeds", "edits", "ES"]
    assert [row.split()[0] for row in rows] == ["unedited", "encore", "memit", "rome"]
    assert path == f"report: {experiment / 'report.html'}"
    assert any(re.search(r"memit +norm_growth +2 of 2", line) for line in lines)


@READS_PAGE
def test_the_page_names_the_source_of_second_moments(experiment: Path, write_run: WriteRun, page: str):
    assert "statistics not recorded" in page
    path = write_run(editor="rome", seed=9) / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"statistics": "fast: 10·d tokens of a text"}))
    keep_metrics(experiment, *FEW)
    assert page_of(experiment, title="quick").count("fast: 10·d tokens of a text") == 2


@READS_PAGE
def test_the_page_refers_to_nothing_outside_itself(page: str):
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"'](?!data:)", page)
    assert "default-src 'none'" in page


@READS_PAGE
def test_hostile_text_is_escaped_everywhere(hostile: Path):
    text = (hostile / "report.html").read_text()
    assert "<script>document.title" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;document.title" in text


def test_the_alarms_are_listed_with_their_sentences_and_their_order(
    experiment: Path,
):
    summary = experiment / "rome-0-0" / "summary.json"
    content = json.loads(summary.read_text())
    content["alarms"][0]["sentence"] = "the norm is <b>3</b> times its unedited one"
    summary.write_text(json.dumps(content | {"stopped": True}))
    old = experiment / "rome-1-0" / "summary.json"
    old.write_text(json.dumps({k: v for k, v in json.loads(old.read_text()).items() if k != "alarms"}))
    keep_metrics(experiment, *FEW)
    text = page_of(experiment, title="quick")
    assert "the norm is &lt;b&gt;3&lt;/b&gt; times its unedited one" in text
    assert "by an alarm" in text
    assert re.search(r"norm_growth after \d+ edits", text)
    assert 'id="alarms"' in text and "Alarms (10)" in text


def test_the_table_of_runs_shows_how_many_edits_took_and_the_notes_name_failed_runs(write_run: WriteRun):
    folders = [write_run(editor="memit", seed=seed) for seed in (0, 1, 2)]
    keep_metrics(folders[0].parent, *FEW)
    assert "edits took" not in page_of(folders[0].parent, title="older runs")
    for folder, took in zip(folders, (0, 59), strict=False):
        path, outcome = folder / "summary.json", {"edits": 60, "checked": 60, "took": took}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"outcome": outcome}))
    text = page_of(folders[0].parent, title="quick")
    assert "<td>0 of 60 edits took</td>" in text and "<td>59 of 60 edits took</td>" in text
    assert "Run memit-0-0: only 0 of 60 edits took." in text and "only 59" not in text


def test_without_an_alarm_neither_page_nor_print_speaks_of_alarms(write_run: WriteRun):
    folder = write_run(editor="encore").parent
    keep_metrics(folder, *FEW)
    assert 'id="alarms"' not in page_of(folder, title="quick")
    assert alarm_order_text(collect(folder)).empty


def test_the_printed_table_of_single_runs_fits_a_terminal(write_run: WriteRun):
    write_run(editor="memit")
    table = per_series(collect(write_run(editor="encore").parent), NARROW).to_string(index=False)
    assert max(map(len, table.splitlines())) <= 110


def test_a_selected_figure_without_data_is_named(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The other selected figures are drawn."""
    only = ["figures", str(experiment), "--only", "1,5b", "--format", "svg", "--to", str(tmp_path / "x")]
    assert main(only) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "figure 1 training is left out: no run measured what it shows" in lines
    assert lines[-1].endswith("probes.svg")


def test_several_experiments_get_a_folder_of_their_own(write_run: WriteRun, tmp_path: Path):
    write_run(editor="memit", name="A")
    write_run(editor="rome", name="B")
    folders = [str(tmp_path / "A"), str(tmp_path / "B")]
    assert main(["figures", *folders, "--only", "known", "--format", "svg"]) == 0
    assert (tmp_path / "A+B" / "figures" / "known.svg").exists()
    assert not (tmp_path / "A" / "figures").exists()


def test_a_selection_gets_a_folder_of_its_own(write_run: WriteRun, tmp_path: Path):
    """A report inside the folder of a run would be read as its tables."""
    run = write_run(editor="memit", name="A")
    write_run(editor="memit", name="A", seed=1)
    write_run(editor="rome", name="A")
    keep_metrics(run.parent, "norm/frobenius_ratio/edited")
    (tmp_path / "A" / "latest").symlink_to(run.name)
    for text, folder in ((":editor=memit", "A-editor=memit"), ("/latest", "A-memit-0-0")):
        assert main(["report", f"{tmp_path}/A{text}"]) == 0
        assert "rome" not in (tmp_path / folder / "summary.csv").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"A", "A-editor=memit", "A-memit-0-0"}
    assert not (run / "report.html").exists() and not (tmp_path / "A" / "report.html").exists()


def test_figures_alone_are_drawn_by_name_and_format(experiment: Path, tmp_path: Path):
    command = [
        "figures",
        str(experiment),
        "--only",
        "2,scores",
        "--format",
        "pdf",
        "--to",
        str(tmp_path / "paper"),
    ]
    assert main(command) == 0
    assert sorted(path.name for path in (tmp_path / "paper" / "figures").iterdir()) == [
        "norms.pdf",
        "scores.pdf",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "{root}/absent"], "is not a folder"),
        (["report", "{root}/quick/nobody"], "begins with nobody: choose"),
        (["figures", "{root}/quick:editor=nobody"], "has editor=nobody: choose editor="),
        (["compare", "{root}/quick/latest", "{root}/quick:seed=0"], "begins with latest: choose"),
        (["report", "{root}/quick", "--to", "{root}/file"], "cannot be written"),
        (["figures", "{root}/quick", "--only", "nrms"], "figure 'nrms'"),
        (["figures", "{root}/quick", "--at", "10,x"], "--at x"),
        (["figures", "{root}/quick", "--only", "1"], "no run measured what the figures 1 show"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    experiment: Path, tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    assert main([argument.format(root=tmp_path) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1 and "Traceback" not in message


OWN = "logit/cosine/mean"


@pytest.fixture
def own_metric(write_run: WriteRun) -> Path:
    """An experiment of which one run logs a metric that the table of metrics does not have."""
    write_run(editor="rome", edits=10)
    folder = write_run(editor="memit", edits=10)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    own = [{**row, OWN: 0.1 * row["edits"], "logit/<b>/$x$": 1.0} for row in rows]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in own))
    keep_metrics(folder.parent, "norm/frobenius_ratio/edited", "time/", "logit/")
    return folder.parent


def test_a_metric_of_a_stage_of_ones_own_is_drawn_in_the_report(own_metric: Path, capsys):
    assert main(["report", str(own_metric)]) == 0
    page = (own_metric / "report.html").read_text()
    section = page[page.index('<section id="others">') :].partition("</section>")[0]
    assert re.findall("<h3>(.*?)</h3>", section) == ["logit/&lt;b&gt;/$x$", OWN]
    assert section.count("Plotly.newPlot") == 2
    assert f">{OWN}</th>" in section and "<td>1</td>" in section, "a table of its last values"
    assert OWN not in page.replace(section, ""), "and nowhere else"
    assert (own_metric / "figures" / "metric-logit-cosine-mean.pdf").is_file()
    assert not (own_metric / "figures" / "metric-norm-frobenius_ratio-edited.pdf").exists()


def test_last_values_are_means_over_seeds_as_in_the_table_per_series(write_run: WriteRun):
    """The scale of a metric of one's own is unknown: small numbers keep their digits."""
    for seed, value in enumerate((1e-5, 2e-5)):
        folder = write_run(editor="memit", edits=4, seed=seed)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        own = [row | ({OWN: value * row["edits"]} if row["edits"] else {}) for row in rows]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in own))
    collection = collect(write_run(editor="rome", edits=4).parent)
    table = last_values(collection, [OWN, "norm/frobenius_ratio/edited"])
    assert table[["editor", OWN]].values.tolist() == [
        ["unedited", "–"], ["memit", "4e-05–8e-05"], ["rome", "–"]
    ]  # fmt: skip
    known = per_series(collection, ["series", "norm_ratio"])["norm ratio"].tolist()
    assert [float(text) for text in table["norm/frobenius_ratio/edited"]] == pytest.approx(
        [float(text) for text in known], rel=1e-2
    )


@READS_PAGE
def test_metrics_of_the_table_alone_need_no_section_of_others(page: str, collection: Collection):
    assert 'id="others"' not in page
    assert not other_keys(collection.metrics)


def test_any_metric_is_drawn_by_its_key(own_metric: Path, tmp_path: Path, capsys):
    command = ["figures", str(own_metric), "--format", "svg", "--to", str(tmp_path / "paper")]
    defined = "time/step/seconds"  # a row of the table of metrics, and no figure of the report
    assert main(["report", str(own_metric)]) == 0
    page = (own_metric / "report.html").read_text()
    assert defined not in page and "<code>--key</code> draws any other metric" in page
    assert main([*command, "--key", OWN, "--key", defined]) == 0
    names = {"metric-logit-cosine-mean.svg", "metric-time-step-seconds.svg"}
    assert {path.name for path in (tmp_path / "paper" / "figures").iterdir()} == names
    assert main([*command, "--key", OWN, "--only", "norms"]) == 0
    assert {path.name for path in (tmp_path / "paper" / "figures").iterdir()} == {*names, "norms.svg"}
    capsys.readouterr()
    assert main([*command, "--key", "logit/cosine/meen"]) == 2
    assert (
        "--key logit/cosine/meen: no run measured it; measured were logit/cosine/mean"
        in capsys.readouterr().err
    )


def test_the_conclusions_are_the_numbers_of_the_tables(collection: Collection):
    table = summary(collection).groupby("series")[["norm_ratio", "known_unedited"]].mean()
    grew, kept, alarmed = conclusions(collection)
    assert all(f"{ratio:.3g} ({series})" in grew for series, ratio in table["norm_ratio"].items())
    assert all(f"{share:.0%} ({series})" in kept for series, share in table["known_unedited"].items())
    assert "norm_growth after" in alarmed and "encore" not in alarmed  # whose runs raised no alarm


def test_edits_that_did_not_take_come_first(write_run: WriteRun):
    run = write_run(editor="memit")
    content = json.loads((run / "summary.json").read_text())
    content["outcome"] = {"edits": 50, "checked": 50, "took": 20}
    (run / "summary.json").write_text(json.dumps(content))
    assert conclusions(collect(run.parent))[0].startswith("Most edits did not take")
    content["outcome"]["took"] = 30
    (run / "summary.json").write_text(json.dumps(content))
    assert "did not take" not in " ".join(conclusions(collect(run.parent)))


def test_the_facts_of_one_run_of_every_editor_are_listed(experiment: Path):
    texts = {"text_before": [" Paris", ""], "text_after": [" Rome", ""]}
    write_records(experiment / "memit-0-0", {"target_true": ["Paris", None], **texts})
    write_records(experiment / "memit-1-0", {})
    (experiment / "rome-0-0" / "records.parquet").write_bytes(b"no table")
    facts = fact_table(collect(experiment))
    assert facts["series"].tolist() == ["memit", "memit"]
    assert facts["prompt"].tolist() == ["Ada lives in", "Rob lives in"]
    assert facts["true object"].tolist() == ["Paris", ""]
    assert facts["before"].tolist() == [" Paris", ""] and facts["after"].tolist() == [" Rome", ""]
    assert facts["−log P new"].tolist() == ["0.25", "3.00"] and facts["alive"].tolist() == ["yes", "no"]


def write_records(run: Path, more: dict[str, list[str | None]]) -> None:
    """Two facts at the end of a run."""
    content = {
        "subject": ["Ada", "Rob"], "prompt": ["{} lives in"] * 2, "target_new": ["Rome", "Oslo"],
        "log_p_new.rewrite": [-0.25, -3.0], "accuracy.rewrite": [1.0, 0.0], **more,
    }  # fmt: skip
    pd.DataFrame(content).to_parquet(run / "records.parquet")


@READS_PAGE
@pytest.mark.browser
def test_a_browser_shows_every_figure(hostile: Path):
    """Without errors, without requests, and without executing hostile text; from wide screens to phones."""
    grown = summary(collect(hostile)).query("series == 'rome'")["norm_ratio"].mean()
    with watched_page(width=1200) as watched:
        page = watched.page
        page.goto((hostile / "report.html").as_uri())
        page.wait_for_function(
            f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {len(SHOWN)}"
        )
        marks = ".js-line, .scatterlayer .point, .barlayer .point, .heatmaplayer image"
        for name in sorted(SHOWN):
            box = page.locator(f"#figure-{name} .main-svg").first.bounding_box()
            assert box and box["width"] > 300 and box["height"] > 200, name
            assert page.locator(f"#figure-{name}").locator(marks).count() > 0, name
        shown, title = page.inner_text("main"), page.title()
        with page.expect_download() as download:
            page.locator("button[data-save=csv]").first.click()
        saved = pd.read_csv(download.value.path())
        page.fill("#find", "bergen")
        found = page.locator("#facts tbody tr:visible").all_inner_texts()
        for width in (1400, 420):
            watched.resize(width)
        legend = page.locator("#figure-norms .legendtext").all_text_contents()
    assert watched.problems == []
    assert watched.outside("file:") == []
    assert title == HOSTILE and HOSTILE in shown
    assert [row.split("\t")[1] for row in found] == ["Rob lives in"]
    last = saved[(saved["name"] == "ROME") & (saved["line"] == "solid")].iloc[-1]
    assert last["x"] == 60 and last["y"] == pytest.approx(grown)
    assert HOSTILE in " ".join(legend)

"""The page that compares editors: who is compared with whom, what is best, and the CSV behind it."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.reports.leaderboard import scores, write_leaderboard
from analysis.results.collection import collect, collect_by
from analysis.spelling import spelled
from editors.errors import DataError
from tests.browser import watched_page
from tests.fake_runs import Part, WriteRun, write_parts

HOSTILE = "</td><script>document.title='owned'</script>"


@pytest.fixture
def roots(write_run: WriteRun, experiment: Path) -> Path:
    """Three editors on one model, and one of them longer and on another model."""
    write_run(editor="memit", name="longer", edits=90, seed=10)  # the fake runs are named by editor and seed
    write_run(editor="memit", name="other", seed=11, settings={"model": {"name": "tiny-llama"}})
    return experiment.parent


def test_runs_are_compared_where_model_facts_and_edits_are_the_same(roots: Path, tmp_path: Path):
    write_leaderboard([roots], tmp_path / "board")
    table = pd.read_csv(tmp_path / "board" / "leaderboard.csv")
    groups = table.groupby(["model", "data", "edits"])["series"].agg(set).to_dict()
    assert groups == {
        ("tiny-gpt2", "world", 60): {"rome", "memit", "encore"},
        ("tiny-gpt2", "world", 90): {"memit"},
        ("tiny-llama", "world", 60): {"memit"},
    }
    assert len(table) == table["run"].nunique() == 8


def test_parts_of_a_collection_hold_all_of_its_runs_once(roots: Path):
    folders = [roots / name for name in ("quick", "longer", "other")]
    parts = collect_by(["model", "edits"], *folders)
    runs = [run for part in parts.values() for run in part.runs["run"]]
    assert sorted(runs) == sorted(collect(*folders).runs["run"])
    assert all(part.runs[["model", "edits"]].nunique().max() == 1 for part in parts.values())


def test_the_best_editor_comes_first_and_is_marked(roots: Path, tmp_path: Path):
    page = write_leaderboard([roots], tmp_path / "board").read_text().split("<h2>")[2]
    means = scores(collect(roots / "quick")).groupby("series")["score"].mean()
    first = page.index(f'<th scope="row">{spelled(str(means.idxmax()))}</th>')
    assert all(first <= page.index(f'<th scope="row">{spelled(str(editor))}</th>') for editor in means.index)
    assert "<td><strong>" in page[first:].split("</tr>")[0]


def test_the_time_of_an_edit_is_that_of_a_step_over_its_batch(write_run: WriteRun):
    one = write_run(editor="memit")
    many = write_run(editor="memit", name="many", settings={"batch_size": 4})
    for folder in (one, many):
        path = folder / "metrics.jsonl"
        path.write_text(path.read_text().replace("time/edit/seconds", "time/step/seconds"))
    single, batch = (scores(collect(folder.parent))["seconds_per_edit"].item() for folder in (one, many))
    assert batch == pytest.approx(single / 4)


def test_an_editor_of_a_model_in_four_bits_is_marked(write_run: WriteRun):
    """Also where no other run of the same editor makes its settings part of its name."""
    for editor, bits in (("memit", 4), ("rome", None)):
        model = {"name": "tiny-gpt2", "dtype": "float32", "bits": bits}
        folder = write_run(editor=editor, settings={"model": model})
    assert sorted(scores(collect(folder.parent))["series"]) == ["memit, model.bits=4", "rome"]


def test_one_experiment_and_a_folder_of_several_are_read(roots: Path, tmp_path: Path):
    write_leaderboard([roots / "quick"], tmp_path / "one")
    assert set(pd.read_csv(tmp_path / "one" / "leaderboard.csv")["name"]) == {"quick"}
    with pytest.raises(DataError, match=r"there is no folder .*absent"):
        write_leaderboard([tmp_path / "absent"], tmp_path / "none")


def test_every_column_holds_its_own_metric(write_run: WriteRun):
    folder = write_run(editor="memit")
    values = {
        "first_choice": ("edit/written/rewrite.first_choice", 0.91),
        "written": ("edit/written/rewrite.exact", 0.52),
        "same_text": ("edit/written/unrelated.same", 0.33),
        "restorable": ("edit/hushed/restored", 0.24),
        "memory": ("memory/peak_rss/gib", 1.75),
    }
    others = ("edit/hushed/shrunk", "edit/written/paraphrase.first_choice", "edit/written/rewrite.contains")
    row = {"edits": 60, **dict(values.values()), **dict.fromkeys(others, 0.77)}
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    found = scores(collect(folder.parent)).iloc[0]
    assert {column: found[column] for column in values} == {
        column: value for column, (_, value) in values.items()
    }


def test_the_command_prints_the_page_and_names_what_holds_no_runs(
    roots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["leaderboard", str(roots), "--to", str(tmp_path / "board")]) == 0
    assert f"leaderboard: {tmp_path / 'board' / 'leaderboard.html'}" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["leaderboard", str(tmp_path / "empty")]) == 2
    assert "empty holds no experiments" in capsys.readouterr().err


def test_runs_that_edit_nothing_are_refused(tmp_path: Path):
    write_parts(tmp_path, Part(name="cpt", total=40))
    with pytest.raises(DataError, match="edits facts"):
        write_leaderboard([tmp_path], tmp_path / "board")


def test_texts_of_others_are_escaped(write_run: WriteRun, tmp_path: Path):
    write_run(
        editor="memit", editor_label=HOSTILE, settings={"batch_size": HOSTILE, "model": {"name": HOSTILE}}
    )
    page = write_leaderboard([tmp_path], tmp_path / "board").read_text()
    assert "<script>document" not in page and "&lt;script&gt;document" in page


@pytest.mark.browser
def test_a_click_on_a_heading_sorts(roots: Path, tmp_path: Path):
    """Downwards first; neither an error nor a request, from wide screens to phones."""
    page_file = write_leaderboard([roots], tmp_path / "board")
    with watched_page(width=1400) as watched:
        watched.page.goto(page_file.as_uri())
        table = watched.page.locator("table").nth(1)
        table.get_by_text("norm ratio").click()
        place = table.locator("th").all_inner_texts().index("norm ratio")
        downwards = [
            float(row.split("\t")[place].split()[0]) for row in table.locator("tbody tr").all_inner_texts()
        ]
        watched.resize(420)
    assert len(downwards) == 3 and downwards == sorted(downwards, reverse=True)
    assert watched.problems == [] and watched.outside("file:") == []

"""Texts that name experiments and runs: folders, beginnings of names, `latest`, and settings."""

import shutil
from pathlib import Path

import pytest
import yaml

from analysis.results.run_folder import LATEST, RunFolder, run_folders, runs_in
from analysis.selection import by_settings, is_latest, selected, selected_one
from editors.errors import DataError

RUNS = {
    "memit-s0-3fb1395abc": {"editor": {"name": "memit"}, "seed": 0, "edits": 10, "layers": {"edit": [0, 1]}},
    "memit-s1-3fc0000001": {"editor": {"name": "memit"}, "seed": 1, "edits": 100},
    "rome-s0-0123456789": {"editor": {"name": "rome", "ratio": 0.001}, "seed": 0, "edits": 10},
    "5ce4af8476": {"editor": None, "intervention": {"name": "cpt"}, "seed": 0, "stage": {"norms": {}}},
}


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`outputs/quick` with `RUNS`, one of them named as before there were labels; the folder is relative."""
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs", "quick")
    for name, config in RUNS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def names(*texts: str) -> list[str]:
    return [folder.name for folder in selected(*texts)]


@pytest.mark.parametrize("name", RUNS)
def test_a_folder_is_itself_and_the_end_of_its_name_is_the_fingerprint(experiment: Path, name: str):
    assert selected(str(experiment)) == [experiment] and selected(f"{experiment}/{name}") == [
        experiment / name
    ]
    fingerprint = RunFolder(experiment / name).fingerprint
    assert len(fingerprint) == 10 and name.endswith(fingerprint)
    for text in (f"{experiment}/{fingerprint}", fingerprint, fingerprint[:4]):
        assert selected(text) == [experiment / name]


@pytest.mark.parametrize("name", ["mine", "memit-0-0", "a-3fb1395ab", "3fb1395abcd", "A-3FB1395ABC"])
def test_a_folder_that_no_run_named_has_its_whole_name_as_identity(name: str):
    assert RunFolder(Path(name)).fingerprint == name


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ("editor=memit", [0, 1]),
        ("editor=memit,seed=0", [0]),
        ("seed=0,editor.name=memit", [0]),
        ("seed=0", [3, 0, 2]),
        ("edits=1e2", [1]),
        ("editor.ratio=1e-3", [2]),
        ("editor/ratio=0.001", [2]),
        ("editor=null", [3]),
        ("intervention=cpt", [3]),
        ("layers.edit=[0, 1],seed=0", [0]),
        ("layers.edit=[0,1]", [0]),
        ("stage=[norms]", [3]),
        ("stage=norms", [3]),
    ],
)
def test_settings_select_the_runs_that_have_all_of_them(experiment: Path, settings: str, places: list[int]):
    text = f"{experiment}:{settings}"
    assert by_settings(text) and names(text) == [list(RUNS)[place] for place in places]


def test_a_selection_of_none_says_which_values_there_are(experiment: Path):
    with pytest.raises(DataError) as error:
        selected(f"{experiment}:editor=encore,seed=0")
    for there in ("editor=memit,seed=0", "editor=memit,seed=1", "editor=rome,seed=0", "editor=null,seed=0"):
        assert there in str(error.value)
        assert there == "editor=null,seed=0" or len(selected(f"{experiment}:{there}")) == 1
    with pytest.raises(DataError, match=r"has edtor=memit: choose edtor=null$"):
        selected(f"{experiment}:edtor=memit")
    with pytest.raises(DataError, match="nowhere is no run and holds none"):
        selected("outputs/nowhere:seed=0")


def test_a_selection_of_several_is_refused_where_one_is_needed(experiment: Path):
    with pytest.raises(
        DataError, match=r"editor=memit names 2 runs: choose .*memit-s0-3f.* or .*memit-s1-3f"
    ):
        selected_one(f"{experiment}:editor=memit")
    assert selected_one(f"{experiment}:editor=rome").name == "rome-s0-0123456789"
    assert selected_one(str(experiment)) == experiment


def test_a_beginning_of_several_and_of_none_name_the_runs(experiment: Path):
    for text in (f"{experiment}/memit", f"{experiment}/3f", "3f"):
        with pytest.raises(DataError, match=r"2 runs: choose .*memit-s0-3fb1395abc or .*memit-s1-3fc0000001"):
            selected(text)
    assert names(f"{experiment}/memit-s1", "3fb", "3fb1") == ["memit-s1-3fc0000001", "memit-s0-3fb1395abc"]
    with pytest.raises(
        DataError, match=r"begins with encore: choose .*5ce4af8476, .* or .*rome-s0-0123456789"
    ):
        selected(f"{experiment}/encore")


def test_a_message_names_a_few_runs_of_many(experiment: Path):
    for number in range(20):
        shutil.copytree(experiment / "5ce4af8476", experiment / f"x-{number:010d}")
    with pytest.raises(DataError, match="or one of 14 more") as error:
        selected(f"{experiment}/x-")
    assert len(str(error.value)) < 300


def test_one_run_in_two_experiments_has_to_be_named(experiment: Path):
    shutil.copytree(experiment / "5ce4af8476", experiment.with_name("kept") / "5ce4af8476")
    with pytest.raises(DataError, match="2 runs: choose outputs/kept/5ce4af8476 or outputs/quick/5ce4af8476"):
        selected("5ce4")
    assert selected("outputs/kept/5ce4") == [Path("outputs/kept/5ce4af8476")]


@pytest.mark.parametrize("text", ["outputs/nowhere", "nowhere", "/nowhere/at/all", "outputs", "a:b", ""])
def test_a_path_that_names_no_run_is_left_to_its_reader(experiment: Path, text: str):
    assert selected(text) == [Path(text)]


def test_latest_is_what_it_links_to_and_no_run_of_its_own(experiment: Path):
    link = experiment / LATEST
    link.symlink_to("rome-s0-0123456789")
    assert is_latest(str(link)) and selected(str(link)) == [experiment / "rome-s0-0123456789"]
    assert selected(f"{link}/") == [experiment / "rome-s0-0123456789"]
    assert (
        [run.name for run in runs_in(experiment)]
        == sorted(RUNS)
        == [r.name for r in run_folders([experiment])]
    )
    shutil.rmtree(experiment / "rome-s0-0123456789")
    with pytest.raises(DataError, match="begins with rome-s0-0123456789: choose"):
        selected(str(link))
    link.unlink()
    with pytest.raises(DataError, match="begins with latest: choose"):
        selected(str(link))
    shutil.copytree(experiment / "5ce4af8476", link)  # as a copy that follows links
    assert len(runs_in(experiment)) == 3 and selected(str(link)) == [link]


def test_a_folder_with_a_colon_in_its_name_is_that_folder(experiment: Path):
    odd = experiment.with_name("quick:seed=0")
    shutil.copytree(experiment, odd)
    assert not by_settings(str(odd)) and selected(str(odd)) == [odd]
    assert names(f"{odd}:editor=rome") == ["rome-s0-0123456789"]


def test_a_run_that_failed_before_it_began_has_no_values(experiment: Path):
    (experiment / "memit-s0-3fb1395abc" / "config.yaml").unlink()
    (experiment / "memit-s0-3fb1395abc" / "FAILED").touch()
    assert names(f"{experiment}:editor=memit") == ["memit-s1-3fc0000001"]
    (experiment / "memit-s1-3fc0000001" / "config.yaml").write_text("[")
    with pytest.raises(DataError, match=r"config\.yaml cannot be read"):
        selected(f"{experiment}:editor=memit")

"""Names of run folders, the link to the latest run, and folders that were named before there were labels."""

import errno
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from analysis.results.run_folder import LATEST, RunFolder, runs_in
from analysis.selection import selected
from pipeline.config.fingerprint import fingerprint, run_label, run_name
from pipeline.runs.folder import RunDir
from pipeline.runs.layout import folder_of, point_latest, run_folder, summary_of


def config(**changes: object) -> dict[str, object]:
    """A small configuration."""
    parts = {"editor": {"name": "memit"}, "intervention": {"name": "edit"}}
    return {"name": "demo", "seed": 0, **parts, **changes}


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "memit-s0"),
        ({"seed": 12}, "memit-s12"),
        ({"seed": None}, "memit"),
        ({"seed": -1}, "memit-s_1"),
        ({"editor": None, "intervention": {"name": "cpt_localized"}}, "cpt_localized-s0"),
        ({"editor": None, "intervention": None}, "run-s0"),
        ({"editor": "memit"}, "edit-s0"),
        ({"editor": {"name": "a/b: c-d\n..é"}}, "a_b_c_d_-s0"),
        ({"editor": {"name": "日本"}}, "_-s0"),
        ({"editor": {"name": "x" * 300}, "seed": 10**30}, f"{'x' * 24}-s1{'0' * 22}"),
    ],
)
def test_a_name_is_a_short_label_of_plain_characters_and_the_fingerprint(
    tmp_path: Path, changes: dict[str, object], label: str
):
    folder = folder_of(tmp_path, config(**changes))
    assert folder == tmp_path / "demo" / f"{label}-{fingerprint(config(**changes))}"
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", folder.name)
    assert RunFolder(folder).fingerprint == fingerprint(config(**changes))


@pytest.mark.parametrize(
    "same",
    [
        {"seed": 0.0}, {"seed": -0.0}, {"tracker": {"mode": "online"}}, {"resume": "force"},
        {"editor": {"name": "memit", "save_every": 3}}, {"editor": {"replay": None, "name": "memit"}},
    ],
)  # fmt: skip
def test_equal_configurations_meet_in_one_folder(same: dict[str, object]):
    assert run_name(config(**same)) == run_name(config())


def test_other_configurations_have_another_folder_even_with_the_same_label():
    for one, other in (({}, {"edits": 5}), ({"editor": {"name": "a?"}}, {"editor": {"name": "a:"}})):
        assert run_label(config(**one)) == run_label(config(**other))
        assert run_name(config(**one)) != run_name(config(**other))


def test_a_run_that_was_named_by_its_fingerprint_is_found_and_continued(tmp_path: Path):
    former = tmp_path / "demo" / fingerprint(config())
    former.mkdir(parents=True)
    with RunDir(root=tmp_path, config=config()) as run:
        run.finish(objective=2.0)
    assert run.folder == former and run.info.fingerprint == former.name
    assert summary_of(run_folder(former.parent, config()))["objective"] == 2.0
    assert [each.name for each in runs_in(former.parent)] == [former.name]


def test_the_latest_run_is_the_one_that_began_last(tmp_path: Path):
    latest = tmp_path / "demo" / LATEST
    for seed in (0, 1):
        with RunDir(root=tmp_path, config=config(seed=seed)) as run:
            assert latest.readlink() == Path(run.folder.name)
            assert selected(str(latest)) == [run.folder]
            run.finish(objective=None)
    with RunDir(root=tmp_path, config=config(seed=0)) as again:
        assert again.done  # nothing is computed
    assert latest.resolve() == run.folder
    point_latest(again.folder)
    assert latest.resolve() == again.folder
    assert {each.path for each in runs_in(latest.parent)} == {run.folder, again.folder}
    assert {path.name for path in latest.parent.iterdir()} == {LATEST, run.folder.name, again.folder.name}


def test_an_experiment_that_is_moved_takes_the_link_along(tmp_path: Path):
    with RunDir(root=tmp_path, config=config()) as run:
        run.finish(objective=None)
    moved = tmp_path / "demo"
    moved.rename(tmp_path / "moved")
    assert selected(str(tmp_path / "moved" / LATEST)) == [tmp_path / "moved" / run.folder.name]


def test_a_disk_without_links_has_no_latest_and_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(path: Path, target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with RunDir(root=tmp_path, config=config()) as run:
        run.finish(objective=None)
    assert run.done and [path.name for path in run.folder.parent.iterdir()] == [run.folder.name]


def test_a_folder_that_is_called_latest_is_left_alone(tmp_path: Path):
    mine = tmp_path / "demo" / LATEST / "mine"
    mine.mkdir(parents=True)
    with RunDir(root=tmp_path, config=config()) as run:
        run.finish(objective=None)
    assert mine.is_dir() and not mine.parent.is_symlink()
    assert {path.name for path in run.folder.parent.iterdir()} == {LATEST, run.folder.name}


def test_many_runs_that_begin_at_once_leave_one_link(tmp_path: Path):
    folders = [tmp_path / "demo" / f"memit-s{seed}-{seed:010x}" for seed in range(50)]
    for folder in folders:
        folder.mkdir(parents=True)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(point_latest, folders))
    assert (tmp_path / "demo" / LATEST).resolve() in folders
    assert len(list((tmp_path / "demo").iterdir())) == 51

"""Folders of synthetic runs, and one thread for small products."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

from analysis.results.collection import Collection, collect
from tests import fake_runs
from tests.fake_runs import EDITORS, WriteRun


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a finished run into `tmp_path/<name>/<fingerprint>` and returns its folder."""
    return partial(fake_runs.write_run, tmp_path)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `experiment`, which no test changes."""
    root = tmp_path_factory.mktemp("runs")
    for editor in EDITORS:
        for seed in (0, 1):
            fake_runs.write_run(root, editor=editor, seed=seed)
    failed = fake_runs.write_run(root, editor="memit", seed=2)
    (failed / "DONE").unlink()
    (failed / "FAILED").write_text("the norm is NaN after 17 edits; lower the step size\nTraceback …\n")
    (fake_runs.write_run(root, editor="memit", seed=3) / "DONE").unlink()
    return root / "quick"


@pytest.fixture(scope="session")
def collection(written: Path) -> Collection:
    """The runs of `experiment` as they are read; no test changes them."""
    return collect(written)


@pytest.fixture
def experiment(written: Path, tmp_path: Path) -> Path:
    """Three editors, two seeds each, one failed and one running run."""
    return Path(shutil.copytree(written, tmp_path / "quick"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Several threads do not speed up small products, and wait long if other processes use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)

"""Folders of synthetic runs, and one thread for small products."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

from tests import fake_runs
from tests.fake_runs import EDITORS, WriteRun


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a finished run into `tmp_path/<name>/<fingerprint>` and returns its folder."""
    return partial(fake_runs.write_run, tmp_path)


@pytest.fixture
def experiment(write_run: WriteRun, tmp_path: Path) -> Path:
    """Three editors, two seeds each, one failed and one running run."""
    for editor in EDITORS:
        for seed in (0, 1):
            write_run(editor=editor, seed=seed)
    failed = write_run(editor="memit", seed=2)
    (failed / "DONE").unlink()
    (failed / "FAILED").write_text("the norm is NaN after 17 edits; lower the step size\nTraceback …\n")
    (write_run(editor="memit", seed=3) / "DONE").unlink()
    return tmp_path / "quick"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Several threads do not speed up small products, and wait long if other processes use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)

"""What a pool shows: a table on a terminal, lines elsewhere."""

import io
import logging

import pytest
from rich.console import Console

from pipeline.launchers import pool_view
from pipeline.launchers.pool_view import PoolView
from pipeline.progress.run_states import RunState

RUNS = [
    RunState(run="aaaa", overrides=("editor=rome", "seed=0"), state="done", share=1.0, seconds=10.0),
    RunState(
        run="bbbb", overrides=("editor=memit", "seed=0"), state="running", message="5 of 10 edits", share=0.5,
        seconds=5.0,
    ),
    *[RunState(run="", overrides=("editor=pmet", f"seed={seed}"), state="waiting") for seed in range(3)],
]  # fmt: skip


def on_a_terminal(height: int, *, width: int = 90) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=height, color_system=None)
    with PoolView("pool", console) as view:
        view.show(lambda: RUNS, last=True)
    return screen.getvalue()


def test_a_terminal_shows_what_differs_the_progress_and_the_time_left():
    text = on_a_terminal(24)
    assert "bbbb  running      editor=memit seed=0  5 of 10 edits; about 5 s left" in text
    assert "aaaa  done         editor=rome seed=0   in 10 s" in text
    assert "pool: 5 runs: 1 done, 3 waiting, 1 running; about 35 s left" in text
    assert text.index("bbbb") < text.index("aaaa"), "running ones first"


def test_a_small_terminal_shows_the_running_runs_and_the_totals():
    text = on_a_terminal(7, width=60)
    assert "bbbb" in text and "aaaa" not in text and "… and 4 more" in text and "pool: 5 runs" in text
    assert max(map(len, text.splitlines())) < 90, "a run has one line"


def test_elsewhere_there_is_a_line_at_intervals(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    now = [100.0]
    monkeypatch.setattr(pool_view.time, "monotonic", lambda: now[0])
    with (
        caplog.at_level(logging.INFO),
        PoolView("pool", Console(file=io.StringIO(), force_terminal=False)) as view,
    ):
        for seconds in range(0, 65, 5):
            now[0] = 100.0 + seconds
            view.show(lambda: RUNS)
    assert caplog.messages == ["5 runs: 1 done, 3 waiting, 1 running; about 35 s left"] * 2
    assert not view.owns_output

"""The progress of a run on a terminal, in a log, and for other processes."""

import io
import logging
import sys
import time

import pytest
from rich.console import Console

from analysis.metrics import NORM_RATIO
from editors.phases import Phase, silent
from pipeline.interventions.base import Part
from pipeline.tracking.progress_bar import ProgressBars
from pipeline.tracking.progress_lines import ProgressLines

PART = Part(name="edit", unit="edits", total=1200)
MOMENTS = Phase(name="collecting second moments", count=12000, total=100000, unit="tokens")


def test_a_phase_in_words():
    assert str(MOMENTS) == "collecting second moments: 12,000 of 100,000 tokens"
    assert str(Phase(name="loading tiny")) == "loading tiny"
    assert silent(MOMENTS) is None


def shown(bars: ProgressBars) -> str:
    """What the terminal shows now."""
    console = Console(file=io.StringIO(), width=100)
    console.print(bars._progress.get_renderable())
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_terminal_shows_the_present_phase_alone_then_the_parts():
    bars = ProgressBars(Console(file=io.StringIO(), force_terminal=True, width=100))
    with bars:
        bars.report(Phase(name="loading tiny"))
        bars.report(MOMENTS)
        assert "12,000/100,000 tokens" in shown(bars) and "loading" not in shown(bars)
        bars.show(PART, 0, {})
        assert "0/1200 edits" in shown(bars) and "moments" not in shown(bars)
        bars.show(PART, 100, {NORM_RATIO: 1.0024})
        bars.show(PART, 110, {})
        assert "110/1200 edits" in shown(bars) and "edits/s, norm ratio 1.002" in shown(bars)
        bars.report(Phase(name="measuring efficacy", count=1, total=2, unit="stages"))
        assert "1/2 stages" in shown(bars) and "110/1200 edits" in shown(bars)
    assert "1/2 stages" not in shown(bars) and "110/1200 edits" in shown(bars)


def test_messages_are_printed_whole_above_the_bars(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    screen, path = io.StringIO(), "/a/long/path" * 12
    try:
        with ProgressBars(Console(file=screen, force_terminal=True, width=60)) as bars:
            bars.report(MOMENTS)
            logging.getLogger("test").warning("[red] %s", path)
        assert handler.stream is sys.stderr
    finally:
        logging.getLogger().removeHandler(handler)
    assert f"[red] {path}" in screen.getvalue() and not sys.stderr.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_log_gets_the_present_phase_and_then_the_progress_at_intervals(caplog: pytest.LogCaptureFixture):
    def wait_for(text: str) -> None:
        until = time.monotonic() + 20
        while text not in caplog.text:
            assert time.monotonic() < until, caplog.text
            time.sleep(0.01)

    with caplog.at_level(logging.INFO), ProgressLines(seconds=0.02) as lines:
        time.sleep(0.1)
        assert not caplog.text, "nothing has begun"
        lines.report(MOMENTS)
        wait_for(str(MOMENTS))
        lines.show(PART, 0, {NORM_RATIO: 1.0})
        wait_for("edit: 0 of 1200 edits, norm ratio 1\n")
        lines.show(PART, 600, {NORM_RATIO: 1.25})
        wait_for("edits/s, norm ratio 1.25, about ")
    count = len(caplog.records)
    time.sleep(0.1)
    assert len(caplog.records) == count, "it ends with its context"

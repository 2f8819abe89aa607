"""A command interrupted while it imports ends with one line; the reader of its output may leave first."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.interrupts import end_at_once, ending_at_once, ending_in_order, only_ends_the_process
from tests.paths import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
RUN = ("pipeline", "edits=1", "stage=[norms]", "tracker=none")


@pytest.mark.parametrize(
    ("command", "module", "number"),
    [
        (RUN, "omegaconf", signal.SIGINT),
        (RUN, "hydra.core.config_store", signal.SIGTERM),
        # composed; an exception in this import aborts the process
        (RUN, "torch._C", signal.SIGINT),
        (("analysis", "report", "outputs/absent"), "numpy", signal.SIGINT),
    ],
    ids=["imports", "terminated", "composed", "analysis"],
)
def test_a_signal_during_imports_gives_one_line_and_its_status(
    command: tuple[str, ...], module: str, number: int, tmp_path: Path
):
    """Python reports every import, so that the signal can be sent after a certain one."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", *command], cwd=tmp_path, env=ENVIRONMENT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip().rpartition(" ")[2].startswith(module):
                break
        process.send_signal(number)
        left = process.stderr.readlines()
    assert process.returncode == 128 + number
    lines = [line.strip() for line in left if not line.startswith("import time:")]
    assert lines == [f"interrupted by {signal.Signals(number).name}"]


@pytest.mark.parametrize("command", [("analysis", "--help"), ("pipeline", "--help"), ("pipeline", "status")])
def test_an_output_that_nobody_reads_ends_a_command_silently(command: tuple[str, ...], tmp_path: Path):
    (tmp_path / "outputs").mkdir()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=ENVIRONMENT,
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert "Traceback" not in done.stderr and "Broken pipe" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Handlers and logging as before: an interrupted block leaves its own, since the process ends then."""
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    logging.disable(logging.NOTSET)
    for number, handler in earlier.items():
        signal.signal(number, handler)


def ended(error: BaseException, *signals: int) -> int | str | None:
    """Exit status of a block that receives signals and then raises an error."""
    with pytest.raises(SystemExit) as exit_, ending_in_order():
        for number in signals:
            try:
                os.kill(os.getpid(), number)
            except BaseException:  # as a library may
                continue
        raise error
    return exit_.value.code


def test_an_interrupt_that_a_library_turns_into_an_error_still_counts(capsys: pytest.CaptureFixture[str]):
    assert ended(ImportError("half a module"), signal.SIGINT) == 130
    assert ended(ImportError("half a module"), signal.SIGTERM, signal.SIGINT) == 143
    assert ended(KeyboardInterrupt()) == 130
    lines = "interrupted by SIGINT\ninterrupted by SIGTERM\ninterrupted by SIGINT\n"
    assert capsys.readouterr().err == lines


def test_another_signal_while_the_process_ends_is_no_traceback():
    assert ended(SystemExit(130)) == 130  # of a pool that has passed the first one on
    assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is end_at_once


def test_other_errors_and_exits_stay_as_they_are():
    assert ended(SystemExit(3)) == 3
    with pytest.raises(ZeroDivisionError), ending_in_order():
        raise ZeroDivisionError


def test_handlers_return_and_those_of_others_stay():
    before = signal.getsignal(signal.SIGINT)
    with ending_in_order():
        assert only_ends_the_process(signal.getsignal(signal.SIGINT))
        with ending_at_once():
            assert only_ends_the_process(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGINT) is before
    earlier = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending_in_order():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, earlier)

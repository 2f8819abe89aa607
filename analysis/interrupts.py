"""Ctrl-C, SIGTERM and a closed pipe end a command with one line and a status, never with a traceback.

The status is 128 + the number of the signal, as in a shell. Light: imported before everything that takes
seconds to import.
"""

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def ending_at_once() -> Iterator[None]:
    """A signal ends the process on the spot: in an import of PyTorch an exception may abort native code."""
    with _handled_by(end_at_once):
        yield


@contextmanager
def ending_in_order() -> Iterator[None]:
    """A signal raises an exception that closes what is open; then the process exits with its status.

    An output that nobody reads any more (`| head`) ends the process as SIGPIPE would.

    Raises:
        SystemExit: once everything is closed.
    """
    atexit.register(_ignore_signals)  # first, so that it is called last
    try:
        with _handled_by(handler := _RaiseExit()):
            try:
                try:
                    yield
                finally:
                    sys.stdout.flush()
            except BrokenPipeError:
                discard_output()
                raise SystemExit(128 + signal.SIGPIPE) from None
            except BaseException as error:
                # libraries may turn the interrupt of an import into an error of their own
                number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else handler.number
                if number is None:
                    raise
                print(_line(number), file=sys.stderr)  # noqa: T201
                logging.disable()  # of what libraries log when the process ends
                raise SystemExit(128 + number) from None
    except SystemExit as leaving:
        if leaving.code in {128 + number for number in _SIGNALS}:
            for number in _SIGNALS:  # once more, while the process ends
                signal.signal(number, end_at_once)
        raise


class _Interrupt(KeyboardInterrupt):
    """Ctrl-C. Python kills itself by SIGINT if a plain one passes code that is compiled from a text, as that
    of data classes is, even if it is caught later."""


class _RaiseExit:
    """A handler that remembers the first signal and raises an exception."""

    number: int | None = None

    def __call__(self, number: int, _: FrameType | None) -> NoReturn:
        self.number = self.number or number
        raise _Interrupt if number == signal.SIGINT else SystemExit(128 + number)


def only_ends_the_process(handler: object) -> bool:
    """Whether this is one of the handlers of this module, or what a process has without any."""
    ends = (end_at_once, signal.default_int_handler, signal.SIG_DFL)
    return handler in ends or isinstance(handler, _RaiseExit)


def end_at_once(number: int, _: FrameType | None = None) -> NoReturn:
    """Write one line and end the process."""
    os.write(2, f"{_line(number)}\n".encode())
    os._exit(128 + number)


def discard_output() -> None:
    """Discard what is printed from now on: the reader of standard output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def received(numbers: Iterable[int], handler: Handler | signal.Handlers) -> Iterator[Mapping[int, Any]]:
    """Handle these signals by `handler`; yields the earlier handlers, which return at the end.

    Only the main thread of a process receives signals: in another thread nothing changes, and the mapping is
    empty.
    """
    earlier: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        earlier = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield earlier
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """Handle signals that would only end the process. Those that are ignored, as in a background job, and
    those of a run stay.
    """
    ending = [number for number in _SIGNALS if only_ends_the_process(signal.getsignal(number))]
    with received(ending, handler):
        yield


def _ignore_signals() -> None:
    """Let Python take its modules apart undisturbed: it has no handlers then, and the status is decided."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _line(number: int) -> str:
    return f"interrupted by {signal.Signals(number).name}"

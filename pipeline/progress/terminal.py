"""Log messages above what is shown live on a terminal."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOBase

from rich.console import Console
from rich.text import Text


def terminal() -> Console:
    """Standard error, where progress is shown and messages are logged."""
    return Console(stderr=True)


@contextmanager
def logged_above(console: Console) -> Iterator[None]:
    """Print messages for standard error above what the console shows live.

    The handler of a log keeps the stream that it was configured with, and would write into the middle of it.
    """
    streams = (sys.stderr, sys.__stderr__)
    handlers = [
        (handler, handler.stream)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in streams
    ]
    for handler, _ in handlers:
        handler.setStream(_Above(console))
    try:
        yield
    finally:
        for handler, stream in handlers:
            handler.setStream(stream)


class _Above(TextIOBase):
    """A stream to a console; its lines are not broken, so that paths can be copied."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> int:
        if text != "\n":
            self._console.print(Text(text.removesuffix("\n")), soft_wrap=True)
        return len(text)

"""Command line: `python -m analysis report outputs/…`; the commands are in `command_line.py`."""

import sys
from collections.abc import Sequence

from analysis.interrupts import ending_at_once, ending_in_order


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; a user's mistake is one sentence on stderr and status 2."""
    with ending_at_once():  # the import takes seconds
        from analysis.command_line import run
    with ending_in_order():
        return run(arguments)
    raise AssertionError("the block returns or exits")


if __name__ == "__main__":
    sys.exit(main())

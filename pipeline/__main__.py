"""Command line: `python -m pipeline …`, or `normscope …`; the commands are in `command_line.py`."""

from analysis.interrupts import ending_at_once, ending_in_order


def main() -> None:
    """Run the command line; a user's mistake gives one sentence and exit status 1."""
    with ending_at_once():  # the import takes seconds
        from pipeline.command_line import run
    with ending_in_order():
        run()


if __name__ == "__main__":
    main()

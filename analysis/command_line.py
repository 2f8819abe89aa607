"""The commands: `python -m analysis report outputs/<experiment>`, `leaderboard outputs`, and others."""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from rich.console import Console

from analysis.plots.figures.metric_figures import key_charts
from analysis.plots.figures.plugin_figures import figures_with
from analysis.plots.figures.registry import FIGURES, FigureSpec, charts, save_figures, selected_figures
from analysis.reports.html_report import write_report
from analysis.reports.leaderboard import write_leaderboard
from analysis.reports.metrics_page import render_metrics
from analysis.reports.optuna_study import searches
from analysis.reports.results_page import write_results
from analysis.results.collection import Collection, collect
from analysis.results.comparison import comparison, read_one, render_comparison
from analysis.results.run_files import printable
from analysis.results.run_folder import RunFolder
from analysis.results.tables import NARROW, alarm_order_text, per_series
from analysis.selection import RUN, RUNS, selected, selected_one
from editors.errors import ConfigError, NormscopeError, first_line
from editors.text_files import local_path

_WIDE = 200
"""Columns of output that is not a terminal."""
_ROWS = 20
"""Metrics that a comparison shows by default."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; a user's mistake is one sentence on stderr and status 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except NormscopeError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        raise  # nobody reads the output any more
    except OSError as error:
        return _refuse(f"{error.filename} cannot be read: {error.strerror}")


def report(options: argparse.Namespace) -> int:
    """Write the report of experiments; prints remarks, alarms, the table and the path."""
    registry = figures_with(options.plugin)
    asked = {text: selected(text) for text in options.folders}
    folders = list(chain.from_iterable(asked.values()))
    collection = collect(*folders)
    title = " and ".join(_names(asked))
    studies = [search for folder in folders for search in searches(folder)]
    with _writing(_target(options.to, asked)) as folder:
        page = write_report(
            collection, folder, title=title, at=_counts_of(options.at), x=options.x, studies=studies,
            figures=registry,
        )  # fmt: skip
    order = alarm_order_text(collection)
    alarms = [order.to_string(index=False), ""] if len(order) else []
    table = per_series(collection, NARROW).to_string(index=False)
    _say(*_remarks(collection), *alarms, table, f"report: {page}")
    return 0


def figures(options: argparse.Namespace) -> int:
    """Draw the selected figures into files; prints their paths."""
    only, at = _names_of(options.only), _counts_of(options.at)
    registry = figures_with(options.plugin)
    specs = selected_figures(only, registry) if only or not options.key else []
    asked = {text: selected(text) for text in options.folders}
    collection = collect(*chain.from_iterable(asked.values()))
    drawn = charts(collection.metrics, only, at=at, x=options.x, figures=registry) if specs else []
    drawn += key_charts(collection.metrics, options.key, x=options.x)
    if not drawn and options.key:
        raise ConfigError(f"--key {' '.join(options.key)}: no run has a finite number of it")
    if not drawn:
        raise ConfigError(
            f"no run measured what the figures {options.only or 'of the table'} show; see docs/metrics.md"
        )
    with _writing(_target(options.to, asked)) as folder:
        paths = save_figures(drawn, folder / "figures", options.format)
    left_out = _left_out(specs, [spec for spec, _ in drawn]) if only else []
    _say(*_remarks(collection), *left_out, *map(str, paths))
    return 0


def compare(options: argparse.Namespace) -> int:
    """Print the differences between two runs; 0 if their numbers are equal within the tolerance, else 1."""
    if not 0 <= options.tolerance < math.inf:
        raise ConfigError(
            f"--tolerance {options.tolerance}: a relative difference is finite and not negative"
        )
    a, b = (read_one(selected_one(text)) for text in (options.a, options.b))
    differences = comparison(a, b, options.tolerance)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    console.print(render_comparison(differences, a.folder, b.folder, rows=None if options.all else _ROWS))
    return 0 if differences.is_equal else 1


def results(options: argparse.Namespace) -> int:
    """Write the page of results; prints the verdicts and its path."""
    with _writing(options.to) as page:
        verdicts = write_results(options.roots, page)
    _say(*verdicts, f"results: {options.to}")
    return 0


def leaderboard(options: argparse.Namespace) -> int:
    """Write the page that compares editors over all runs; prints its path."""
    with _writing(options.to) as folder:
        page = write_leaderboard(options.roots, folder)
    _say(f"leaderboard: {page}")
    return 0


def metrics(options: argparse.Namespace) -> int:
    """Write the page of metrics; prints its path."""
    with _writing(options.to) as page:
        page.write_text(render_metrics(), encoding="utf-8")
    _say(f"metrics: {options.to}")
    return 0


@contextmanager
def _writing(to: Path) -> Iterator[Path]:
    """The same path, to be written to inside the context; raises ConfigError if that fails."""
    try:
        yield to
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise ConfigError(
            f"{error.filename or to} cannot be written ({reason}): choose another place with --to"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    common = _common_options()
    whole = commands.add_parser(
        "report", parents=[common], help="tables, figures and report.html; prints the table"
    )
    whole.set_defaults(run=report)
    _add_figure_options(commands.add_parser("figures", parents=[common], help="figures alone, for a paper"))
    roots = argparse.ArgumentParser(add_help=False)
    roots.add_argument(
        "roots", nargs="+", type=local_path, metavar="outputs", help="folders that hold experiments' folders"
    )
    page = commands.add_parser(
        "results", parents=[roots], help="the claims of all experiments, with verdicts"
    )
    page.add_argument(
        "--to", type=local_path, default=Path("docs/results.md"), help="default: docs/results.md"
    )
    page.set_defaults(run=results)
    board = commands.add_parser(
        "leaderboard", parents=[roots], help="editors compared over all runs, as a page and as CSV"
    )
    board.add_argument("--to", type=local_path, default=Path("outputs"), help="folder; default: outputs")
    board.set_defaults(run=leaderboard)
    keys = commands.add_parser("metrics", help="the definitions of all metrics, as docs/metrics.md")
    keys.add_argument(
        "--to", type=local_path, default=Path("docs/metrics.md"), help="default: docs/metrics.md"
    )
    keys.set_defaults(run=metrics)
    two = commands.add_parser("compare", help="the differences between two runs; exit status as of diff")
    two.add_argument("a", metavar="outputs/<experiment>/<run>", help=f"{RUN}, finished or not")
    two.add_argument("b", metavar="outputs/<experiment>/<run>")
    two.add_argument(
        "--tolerance", type=float, default=0.0, help="relative difference up to which numbers are equal"
    )
    two.add_argument("--all", action="store_true", help=f"every metric that differs; default: {_ROWS}")
    two.set_defaults(run=compare)
    return parser


def _common_options() -> argparse.ArgumentParser:
    """The options of `report` and `figures`."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("folders", nargs="+", metavar="outputs/<experiment>", help=RUNS)
    common.add_argument(
        "--to",
        type=local_path,
        help="folder to write to; default: the experiment's, for several outputs/<A>+<B>, for a run "
        "outputs/<experiment>-<run>",
    )
    common.add_argument(
        "--at",
        default="",
        metavar="COUNTS",
        help="edits or optimiser steps of the figures by block, such as 10,100,1000 (the nearest measured "
        "ones); default: a middle and the last one",
    )
    common.add_argument(
        "--x", choices=("steps", "tokens"), default="steps", help="x-axis of training; default: steps"
    )
    common.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module of your own whose FIGURES are drawn as well; repeat it for several",
    )
    return common


def _add_figure_options(parser: argparse.ArgumentParser) -> None:
    """The options of `figures` alone."""
    names = ", ".join(f"{spec.number} {spec.name}" for spec in FIGURES)
    parser.add_argument(
        "--only", default="", metavar="FIGURES", help=f"names or numbers of {names}; default: all"
    )
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY",
        help="any metric, such as logit/cosine/mean, as a line chart; repeat it for several",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=("png", "svg", "pdf"),
        default=["png", "svg", "pdf"],
        help="default: all three",
    )
    parser.set_defaults(run=figures)


def _names_of(comma_separated: str) -> list[str]:
    return [name.strip() for name in comma_separated.split(",") if name.strip()]


def _counts_of(comma_separated: str) -> list[int]:
    counts = _names_of(comma_separated)
    for count in counts:
        if not count.isdecimal() or int(count) == 0:
            raise ConfigError(f"--at {count}: counts are positive whole numbers, for example --at 10,100")
    return list(map(int, counts))


def _left_out(specs: Sequence[FigureSpec], drawn: Sequence[FigureSpec]) -> list[str]:
    return [
        f"figure {spec.number} {spec.name} is left out: no run measured what it shows"
        for spec in specs
        if spec not in drawn
    ]


def _target(to: Path | None, asked: Mapping[str, Sequence[Path]]) -> Path:
    """The folder to write to: of several experiments, or of single runs, a new one beside the experiments.

    What an experiment has of its own, or a run, is thus never overwritten.
    """
    if to is not None:
        return to
    first = next(iter(asked.values()))[0]
    is_run = RunFolder(first).is_run
    if len(asked) == 1 and not is_run:
        return first
    home = first.parent.parent if is_run else first.parent
    return home / "+".join(_names(asked)).replace("/", ".")


def _names(asked: Mapping[str, Sequence[Path]]) -> list[str]:
    """The name of each experiment; of runs, `<experiment>-<run>` or `<experiment>-<settings>`."""
    return [
        f"{RunFolder(first).experiment}-{text.rpartition(':')[2] if others else first.resolve().name}"
        if RunFolder(first).is_run
        else first.resolve().name
        for text, (first, *others) in asked.items()
    ]


def _remarks(collection: Collection) -> list[str]:
    unfinished = [f"{run.status}: {run.name}/{run.run}: {run.sentence}" for run in collection.unfinished]
    return [*unfinished, *collection.notes]


def _say(*lines: str) -> None:
    console = Console()
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _refuse(sentence: str) -> int:
    Console(stderr=True).print(
        f"error: {printable(sentence)}", markup=False, highlight=False, emoji=False, soft_wrap=True
    )
    return 2

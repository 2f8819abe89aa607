"""The figures of one run, finished or not."""

from pathlib import Path

from analysis.plots.charts.save import save
from analysis.plots.figures.registry import charts
from analysis.results.collection import collect_run

_SCREEN_DOTS = 150
"""Per inch, of figures that are looked at on a screen alone."""


def run_figures(folder: Path, to: Path) -> dict[str, Path]:
    """Draw the figures of the run in `folder`, finished or not, into `to`: PNG files by figure name.

    Only of what the run measured. Raises DataError where the run has no numbers.
    """
    drawn = charts(collect_run(folder).metrics)
    return {spec.name: save(chart, to / spec.name, ["png"], dots=_SCREEN_DOTS)[0] for spec, chart in drawn}

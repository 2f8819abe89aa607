"""The figures of one run, finished or not."""

from pathlib import Path

from analysis.plots.charts.save import save
from analysis.plots.figures.registry import charts
from analysis.results.collection import collect_run

_SCREEN_DOTS = 150
"""Resolution per inch of figures for screens."""


def run_figures(folder: Path, to: Path) -> dict[str, Path]:
    """Draw the figures of the run in `folder`, finished or not, into `to`: PNG files by figure name.

    Figures of metrics that the run did not measure are left out. Raises DataError if the run has no numbers.
    """
    figures = charts(collect_run(folder).metrics)
    return {spec.name: save(chart, to / spec.name, ["png"], dots=_SCREEN_DOTS)[0] for spec, chart in figures}

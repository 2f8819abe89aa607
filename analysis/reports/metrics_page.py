"""`docs/metrics.md`: the definitions of all metrics, from their table and the prose of a template."""

from pathlib import Path

import jinja2

from analysis.metrics import Metric, areas
from analysis.results.markdown import lines


def render_metrics() -> str:
    """The page in Markdown."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return templates.get_template("metrics.md.j2").render(table=_table)


def _table(*names: str) -> str:
    """The metrics of areas, one row each."""
    rows = [_row(metric) for name in names for metric in areas()[name].metrics]
    return "\n".join(lines([("key", "what", "unit", "better"), *rows]))


def _row(metric: Metric) -> tuple[str, ...]:
    keys = ", ".join(f"`{pattern}`" for pattern in metric.patterns)
    return keys, metric.what, metric.unit, metric.better

"""The rows of the table of metrics that a key belongs to."""

from collections.abc import Iterable

from analysis.metrics import Metric, expression, metrics


def rows_of(key: str) -> list[Metric]:
    """The row that spells the key out, else all rows with a pattern that fits it."""
    exact = [metric for metric in metrics() if key in metric.patterns]
    return exact or [one for one in metrics() if any(expression(p).fullmatch(key) for p in one.patterns)]


def not_in_one_row(keys: Iterable[str]) -> set[str]:
    """Metric keys that belong to no row or to several."""
    return {key for key in keys if "/" in key and len(rows_of(key)) != 1}

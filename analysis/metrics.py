"""The table of metrics: meaning, unit, stage, W&B summary, table column and heading of every key.

The rows are in `metrics.yaml`, one per pattern. W&B, the tables, the dashboard, the model card, the
objectives and `docs/metrics.md` read them here. Light: needs neither pandas nor torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml

NORM_RATIO = "norm/frobenius_ratio/edited"
SCORE = "edit/score/seen"
ACCURACY = "downstream/mean/acc"

FILE = Path(__file__).with_suffix(".yaml")
PLACEHOLDERS: Mapping[str, str] = MappingProxyType(
    {
        "<site>": r"(?:attn_[qkvo]|mlp_(?:gate|up|down))\.\d+",
        "<part>": r"(?:prompts\.)?(?:block|attention|mlp)\.\d+",
        "<scope>": r"(?:before|latest|seen|sample|first50)",  # first50: the 50 oldest unreplaced edits
        "<kind>": r"(?:rewrite|paraphrase|neighbour|locality|portability|block|mlp|attention)",
        # class of a token of a traced prompt
        "<class>": r"(?:subject_first|subject_middle|subject_last|next|middle|last)",
        "<stage>": r"\w+(?<!_prepare)",
        "<task>": r"[^/]+",
        "<signature>": r"\w+",  # name of a configured alarm
        "<i>": r"\d+",
        "block.LL": r"(?:prompts\.)?block\.\d+",
        "LL": r"\d+",
        "NNNN": r"\d+",
    }
)
"""Regular expression of each placeholder that may occur in a pattern."""
_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS)))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row of the table."""

    patterns: tuple[str, ...]
    """Keys, with placeholders."""
    what: str
    """The definition, in Markdown."""
    unit: str
    stage: str | None
    """Stage that measures the metric; None if it is logged by every run, by an editor or by a training."""
    better: Literal["↑", "↓", ""] = ""
    summary: str = ""
    """What W&B keeps, such as `last,max`; empty for the last value alone."""
    column: str = ""
    """Column of summary.csv; empty if it has none."""
    heading: str = ""
    """Column heading in printed tables; empty to omit the column."""
    format: str = "{:.3f}"
    """Format of the numbers in that column; proportions have three decimals."""
    leads: bool = False
    """Whether its panel is first in its section of the W&B view."""
    card: str = ""
    """Name on a model card; empty if it is not on it."""

    @property
    def key(self) -> str:
        """The key of a metric with one pattern and no placeholder."""
        (pattern,) = self.patterns
        return pattern


@dataclass(frozen=True, kw_only=True)
class Area:
    """The metrics whose keys share their first component, and defaults for keys without a row."""

    stage: str | None = None
    summary: str = ""
    metrics: tuple[Metric, ...]


@cache
def areas() -> Mapping[str, Area]:
    """The whole table by the first part of the keys, in the order of the file."""
    tree = _tree()["areas"]
    return MappingProxyType({name: _area(**settings) for name, settings in tree.items()})


@cache
def dashboard() -> Mapping[str, tuple[str, ...]]:
    """Titles of sections of a W&B view, and the areas in each, in their order."""
    return MappingProxyType({title: tuple(names) for title, names in _tree()["dashboard"].items()})


def metrics() -> tuple[Metric, ...]:
    """All rows."""
    return tuple(metric for area in areas().values() for metric in area.metrics)


def metric_of(key: str) -> Metric | None:
    """The row of a key: its own, or that of the pattern which fits it; None if the table has none."""
    exact, patterns = _patterns()
    if key in exact:
        return exact[key]
    return next((metric for pattern, metric in patterns if pattern.fullmatch(key)), None)


def stage_of(key: str) -> str | None:
    """The only stage that measures the key; None if no stage measures it or the key is unknown."""
    return _row_or_area(key).stage


def summary_of(key: str) -> str | None:
    """What W&B keeps of a key, such as `last,max`; None for its last value alone."""
    return _row_or_area(key).summary or None


def expression(pattern: str) -> re.Pattern[str]:
    """The regular expression of the keys that a pattern stands for."""
    literals = _PLACEHOLDER.split(pattern)
    placeholders = [*_PLACEHOLDER.findall(pattern), ""]
    pairs = zip(literals, placeholders, strict=True)
    return re.compile("".join(re.escape(literal) + PLACEHOLDERS.get(name, "") for literal, name in pairs))


def _row_or_area(key: str) -> Metric | Area:
    """The row of a key; without a row, its area; an empty area if neither exists."""
    return metric_of(key) or areas().get(key.partition("/")[0]) or Area(metrics=())


@cache
def _patterns() -> tuple[Mapping[str, Metric], tuple[tuple[re.Pattern[str], Metric], ...]]:
    """Rows by key, and rows with placeholders by expression."""
    pairs = [(pattern, metric) for metric in metrics() for pattern in metric.patterns]
    exact = {pattern: metric for pattern, metric in pairs if not _PLACEHOLDER.search(pattern)}
    return exact, tuple((expression(one), metric) for one, metric in pairs if one not in exact)


def _area(*, rows: list[dict[str, Any]], stage: str | None = None, summary: str = "") -> Area:
    defaults: dict[str, Any] = {"stage": stage, "summary": summary}
    return Area(
        stage=stage,
        summary=summary,
        metrics=tuple(
            Metric(patterns=tuple(row["key"].split(", ")), **defaults | _without_key(row)) for row in rows
        ),
    )


def _without_key(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "key"}


@cache
def _tree() -> Mapping[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))

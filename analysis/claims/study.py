"""The study of an experiment of `conf/experiment`: its question, claims, tables and pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd

from analysis.claims.evidence import Evidence, Measure
from analysis.claims.verdicts import OPEN, SINGLE_REPEAT_FACTOR, Claim
from analysis.plots.charts.save import Chart
from analysis.results.tables import SCORES

NORM_GROWTH = "arXiv 2502.19416"
ENCORE = "arXiv 2502.01636"
EDITED, DOWNSTREAM, SCORE = SCORES["norm_ratio"], SCORES["downstream"], SCORES["score"]
SUCCESS, KNOWN = SCORES["es"], SCORES["known_unedited"]
KNOWN_ASKED = "downstream/known_facts/acc"
"""The share of known facts in runs that ask for them as a task."""
LATE, PROBE = SCORES["activation_late"], SCORES["probe"]
SOURCE_EDITS = 2000
"""Edits after which arXiv 2502.19416 has its numbers."""
NOTICEABLE = 0.01
"""Smallest change of an accuracy, or of an activation's norm, that counts: one question in a hundred."""
NOTICEABLE_ALONE = SINGLE_REPEAT_FACTOR * NOTICEABLE
"""The same for a single repeat; the default of claims whose smallest effect is NOTICEABLE."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers beside the claims."""

    title: str
    build: Callable[[Evidence], pd.DataFrame]
    """Columns with headings, numbers as numbers; empty if nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture that depends on the settings of the runs, not on their metrics alone."""

    name: str
    caption: str
    build: Callable[[Evidence], Chart | None]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One experiment: its question, and what the page of results shows of its runs."""

    name: str
    """Name of its file in `conf/experiment` and of its folder of runs."""
    question: str
    claims: tuple[Claim, ...]
    figures: tuple[str, ...]
    """Names of figures in `analysis/plots/figures/registry.py`."""
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    series: tuple[str, ...] = ()
    """Columns or settings that name the lines of the figures, each the mean over the runs that share them;
    empty for the names used in reports."""
    facets: tuple[str, ...] = ()
    """Columns or settings among `series` that have panels of their own instead of lines."""
    protocol: str = ""
    """What the source did, as far as it says."""
    threats: tuple[str, ...] = ()
    """What may make its results wrong, or not hold elsewhere, one sentence each."""
    scale: str = ""
    """The column of the page that its runs belong to, if they are all of one scale; see `SCALES` there."""
    same_as: str = ""
    """Another experiment with the same runs, read if the folder of this one has none."""
    at: tuple[int, ...] = ()
    """Counts of edits or steps shown in figures by block; empty for a middle and the last count."""
    lines: int = 10
    """Most lines per picture; more would not have colours of their own."""


def rises(
    statement: str,
    quantity: str,
    measure: Measure,
    *,
    threshold: float = 0.0,
    source: str = OPEN,
    reported: str = "–",
) -> Claim:
    """The claim that a quantity is noticeably above a threshold, by default above zero."""
    return Claim(
        statement=statement, quantity=quantity, measure=measure, side="above", threshold=threshold,
        smallest_effect=NOTICEABLE, source=source, reported=reported,
    )  # fmt: skip


def falls(
    statement: str,
    quantity: str,
    measure: Measure,
    *,
    threshold: float = 0.0,
    source: str = OPEN,
    reported: str = "–",
) -> Claim:
    """The claim that a quantity is noticeably below a threshold, by default below zero."""
    claim = rises(statement, quantity, measure, threshold=threshold, source=source, reported=reported)
    return replace(claim, side="below")

"""What an experiment of `conf/experiment` is for: its question, claims, tables and pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.verdicts import ALONE, Claim
from analysis.plots.charts.save import Chart
from analysis.results.tables import SCORES

NORM_GROWTH = "arXiv 2502.19416"
ENCORE = "arXiv 2502.01636"
OPEN = "open question"
EDITED, DOWNSTREAM, SCORE = SCORES["norm_ratio"], SCORES["downstream"], SCORES["score"]
SUCCESS, KNOWN = SCORES["es"], SCORES["known_unedited"]
LATE, PROBE = SCORES["activation_late"], SCORES["probe"]
NOTICEABLE = 0.01
"""Smallest change of an accuracy, or of an activation's norm, that counts: one question in a hundred."""
NOTICEABLE_ALONE = ALONE * NOTICEABLE
"""The same of a single repeat; claims that have NOTICEABLE as their smallest effect need not name it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers beside the claims."""

    title: str
    build: Callable[[Evidence], pd.DataFrame]
    """Columns with headings, numbers as numbers; empty where nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture that is made of the runs' settings and not of their metrics alone."""

    name: str
    caption: str
    build: Callable[[Evidence], Chart | None]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One experiment."""

    name: str
    """Of its file in `conf/experiment` and of its folder of runs."""
    question: str
    claims: tuple[Claim, ...]
    figures: tuple[str, ...]
    """Names of figures of `analysis/plots/figures/registry.py`."""
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    series: tuple[str, ...] = ()
    """Columns or settings that name the lines of the figures, which are means over all runs that share them;
    empty for the names that reports give."""
    same_as: str = ""
    """An experiment of the same runs, which are read where there are none in this one's folder."""
    at: tuple[int, ...] = ()
    """Edits or steps of the figures by block; empty for a middle and the last."""
    lines: int = 8
    """Lines of a picture at the most: as many as have colours of their own."""

"""Retention: how well edits of a given age still hold.

Sequential editing loses old edits first (gradual forgetting, arXiv 2401.07453), so a mean over all edits
hides the loss behind the newest ones. The age of an edit is the number of edits since, its own included: the
newest one has age 1. Ages are binned in 1-2-5 steps.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.stages.base import Measurement
from editors.data import Fact


def unreplaced(edits: Sequence[Fact]) -> dict[int, Fact]:
    """The edits that no later one replaced, by their place in the sequence, from 0.

    An edit whose prompt a later one edits again is not forgotten: it is meant to be gone.
    """
    replaced = {fact.replaces for fact in edits if fact.replaces}
    return {place: fact for place, fact in enumerate(edits) if fact.id not in replaced}


def upper_edge(age: int) -> int:
    """The smallest of 10, 20, 50, 100, 200, 500, 1000, … that is at least the age."""
    edge = 10
    while edge < age:
        # 1 → 2 → 5 → 10
        edge = edge * 5 // 2 if str(edge).startswith("2") else edge * 2
    return edge


def retention(records: pd.DataFrame, ages: Sequence[int]) -> Measurement:
    """Mean ES over the facts of each bin of ages; for facts without a true object the accuracy.

    Keys: `edit/retention/NNNN`, NNNN the bin's upper edge, for ages above the edge before it and up to it.
    """
    columns = records.reindex(columns=["success.rewrite", "accuracy.rewrite"]).astype(float)
    values = columns["success.rewrite"].fillna(columns["accuracy.rewrite"]).to_numpy()
    edges = np.array([upper_edge(age) for age in ages])
    return {f"edit/retention/{edge:04d}": float(values[edges == edge].mean()) for edge in np.unique(edges)}

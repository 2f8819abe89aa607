"""Retention: success of earlier edits as a function of their age.

Sequential editing loses old edits first (gradual forgetting, arXiv 2401.07453), so in a mean over all edits,
the newest edits mask the forgetting of the oldest. The age of an edit is the number of edits made since,
counting the edit itself; the newest has age 1. Bins have the upper edges 10, 20, 50, 100, 200, 500, …
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.stages.base import Measurement
from editors.data import Fact


def unreplaced(edits: Sequence[Fact]) -> dict[int, Fact]:
    """The edits that no later edit replaced, by their index in the sequence, from 0.

    An edit is excluded if a later edit rewrites its prompt: the model is supposed to lose it, so this is not
    forgetting.
    """
    replaced_ids = {fact.replaces for fact in edits if fact.replaces}
    return {index: fact for index, fact in enumerate(edits) if fact.id not in replaced_ids}


def upper_edge(age: int) -> int:
    """The smallest of 10, 20, 50, 100, 200, 500, 1000, … that is at least the age."""
    edge = 10
    while edge < age:
        # ×2.5 from 2 to 5, otherwise ×2 (1→2, 5→10)
        edge = edge * 5 // 2 if str(edge).startswith("2") else edge * 2
    return edge


def retention(records: pd.DataFrame, ages: Sequence[int]) -> Measurement:
    """Mean edit success (ES) per age bin.

    Facts without a true object have no ES and contribute their accuracy instead. `ages[i]` is the age of
    row i of `records`.

    Keys: `edit/retention/NNNN`, where NNNN is the upper edge of the bin; a bin covers
    previous edge < age ≤ NNNN.
    """
    columns = records.reindex(columns=["success.rewrite", "accuracy.rewrite"]).astype(float)
    values = columns["success.rewrite"].fillna(columns["accuracy.rewrite"]).to_numpy()
    bin_of_row = np.array([upper_edge(age) for age in ages])
    return {
        f"edit/retention/{bin_edge:04d}": float(values[bin_of_row == bin_edge].mean())
        for bin_edge in np.unique(bin_of_row)
    }

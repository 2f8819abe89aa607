"""Whether facts that are hard to write make the norm grow more."""

import pandas as pd

from analysis.claims.evidence import SEQUENCE, Evidence
from analysis.claims.study import Table
from analysis.statistics.monotone import rank_correlation

_HARDNESS = {
    "optimiser steps": "optimiser_steps",
    "loss of the target": "target_loss",
    "way to the target": "residual_norm",
    "norm of the key": "key_norm",
}
"""Numbers of a fact by their column in the table `edits`."""
_FEW = 10
"""Fewest edits of a run that are ranked."""


def _correlations(evidence: Evidence) -> pd.DataFrame:
    """Rank correlation of each fact's numbers with the length of its update, of runs that edit one by one."""
    edits, steps = evidence.table("edits"), evidence.matching("norm/delta", r"[a-z_]+\.\d{1,3}")
    if edits.empty or steps.empty:
        return pd.DataFrame()
    squares = steps["value"].pow(2).groupby([steps["run"], steps["count"].rename("edit")]).sum()
    lengths = squares.pow(0.5).rename("length").reset_index()
    rows = edits.merge(lengths, on=["run", "edit"])
    found = []
    for run, of_run in rows.groupby("run"):
        if len(of_run) >= _FEW and of_run["edit"].is_unique:
            numbers = {
                name: rank_correlation(of_run[column].to_numpy(float), of_run["length"].to_numpy(float))
                for name, column in _HARDNESS.items()
                if column in of_run
            }
            found.append({"run": run, "edits": len(of_run), **numbers})
    if not found:
        return pd.DataFrame()
    table = pd.DataFrame(found).set_index("run")
    cases = evidence.cases(SEQUENCE).reindex(table.index).rename("sequence")
    return table.groupby(cases).mean().dropna(axis="columns", how="all").reset_index()


DIFFICULTY = Table(
    title="Do hard facts make the norm grow more? Rank correlation of ‖Δ‖ of each edit with numbers of its "
    "fact, where facts are edited one by one; means over runs",
    build=_correlations,
)

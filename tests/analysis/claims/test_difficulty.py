"""Hard facts and long updates: ranks within a run whose facts are edited one by one."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.claims.evidence import Evidence
from analysis.claims.studies.difficulty import DIFFICULTY
from analysis.results.collection import collect
from tests.fake_runs import WriteRun, write_rows

EDITS = 12


def run(write_run: WriteRun, *, places: list[int]) -> Path:
    """A run whose updates grow from edit to edit, and whose facts need more steps each and less way."""
    folder = write_run(editor="rome", name="hard")
    rows = [
        {"step": n, "edits": n, "norm/delta/mlp_down.00": 3.0 * n, "norm/delta/mlp_down.01": 4.0 * n}
        for n in range(1, EDITS + 1)
    ]
    write_rows(folder, rows)
    table = {"edit": places, "optimiser_steps": range(EDITS), "residual_norm": range(EDITS, 0, -1)}
    pd.DataFrame(table).to_parquet(folder / "edits.parquet")
    return folder


def test_longer_updates_of_harder_facts_correlate(write_run: WriteRun):
    table = DIFFICULTY.build(Evidence(collect(run(write_run, places=[*range(1, EDITS + 1)]).parent)))
    (row,) = table.to_dict("records")
    assert row["edits"] == EDITS
    assert row["optimiser steps"] == pytest.approx(1) and row["way to the target"] == pytest.approx(-1)
    assert "norm of the key" not in row


def test_batches_are_left_out(write_run: WriteRun):
    """An update of several facts is the length of none of them."""
    places = [place // 2 + 1 for place in range(EDITS)]
    assert DIFFICULTY.build(Evidence(collect(run(write_run, places=places).parent))).empty

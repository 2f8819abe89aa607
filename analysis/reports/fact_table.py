"""The edited facts of a report with what the model answers at the end of a run."""

import pandas as pd

from analysis.results.collection import Collection
from analysis.results.run_folder import RunFolder

MOST = 500
"""Most facts of a series on a page; `python -m pipeline ledger RUN` lists all."""
_SCORES = ("log_p_new.rewrite", "log_p_true.rewrite", "accuracy.rewrite")


def fact_table(collection: Collection) -> pd.DataFrame:
    """The first facts of one run of every series, as text; empty if no run kept its records.

    Columns: series, prompt, what the model wrote after it before the edits and at the end, true object, new
    object, −log P of both after the prompt, and whether the new one is the first choice at the end.
    """
    parts = [
        _facts(str(series), RunFolder(collection.folders[str(runs.iloc[0])]))
        for series, runs in collection.runs.groupby("series", sort=False)["run"]
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _facts(series: str, run: RunFolder) -> pd.DataFrame:
    tables, _ = run.tables()
    records = pd.DataFrame(tables.get("records", [])[:MOST])
    if not {"prompt", "subject", "target_new", *_SCORES[::2]} <= set(records.columns):
        return pd.DataFrame()
    new, true, first = (records.get(name, pd.Series(dtype=float)) for name in _SCORES)
    return pd.DataFrame(
        {
            "series": series,
            "prompt": [
                str(prompt).replace("{}", str(subject))
                for prompt, subject in zip(records["prompt"], records["subject"], strict=True)
            ],
            "before": _column(records, "text_before"),
            "after": _column(records, "text_after"),
            "true object": _column(records, "target_true"),
            "new object": records["target_new"].astype(str),
            "−log P true": _nats(true.reindex(records.index)),
            "−log P new": _nats(new),
            "alive": first.map({1.0: "yes", 0.0: "no"}).fillna(""),
        }
    )


def _column(records: pd.DataFrame, name: str) -> pd.Series:
    """A column as text; empty texts where a run from before there was one has none."""
    return records.get(name, pd.Series("", records.index)).fillna("").astype(str)


def _nats(log_p: pd.Series) -> pd.Series:
    return (-log_p.astype(float)).map(lambda value: f"{value:.2f}" if pd.notna(value) else "")

"""Growth by update: claims shared by several experiments, and the table of the laws that it follows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, steadiness
from analysis.claims.study import DOWNSTREAM, EDITED, KNOWN, NORM_GROWTH, SUCCESS, Table
from analysis.claims.verdicts import Claim
from analysis.plots.figures.curves import growth_terms
from analysis.statistics.growth_laws import fit_growth_laws
from analysis.statistics.intervals import over_seeds

LEAST_GROWTH = 0.001
"""Smallest growth of a norm that counts: a thousandth."""
LAWFUL = 0.95
"""Share of the variance of log r that a law has to explain to be named."""


def growth(by: Sequence[str]) -> Claim:
    """The claim that the edited or trained matrices end with a larger norm."""
    return Claim(
        statement="The Frobenius norm of the updated matrices grows.",
        source=f"{NORM_GROWTH}, abstract",
        reported="always",
        quantity="‖W‖ / ‖W₀‖ of the updated matrices, stacked, at the end; the mean is geometric",
        measure=lambda evidence: evidence.repeats(evidence.last(EDITED), by),
        side="above",
        threshold=1.0,
        smallest_effect=LEAST_GROWTH,
        smallest_effect_alone=LEAST_GROWTH,
        ratio=True,
        always=True,
    )


def every_update(by: Sequence[str]) -> Claim:
    """The claim that the norm of the edited matrices is larger after each update."""
    return Claim(
        statement="The norm grows with every update.",
        source=f"{NORM_GROWTH}, abstract",
        reported="every update",
        quantity="share of updates after which the stacked norm is larger than before; what an editor does "
        "after the last edit, as PRUNE's compression, counts as one",
        measure=steadiness(EDITED, by),
        side="above",
        threshold=0.999,
        always=True,
    )


def laws_by(by: Sequence[str]) -> Table:
    """The table of the law that fits best, its rate, and the share of growth due to the updates' lengths."""

    def build(evidence: Evidence) -> pd.DataFrame:
        fits = [
            fit_growth_laws(rows["count"].to_numpy(), rows["value"].to_numpy()).assign(run=run)
            for run, rows in evidence.series(EDITED).groupby("run")
        ]
        fitted = pd.concat(fits, ignore_index=True) if fits else pd.DataFrame()
        if fitted.empty:
            return fitted
        fitted["case"] = fitted["run"].map(evidence.cases(by))
        squares = _square_share(evidence)
        return pd.DataFrame(
            [_law(str(case), rows, evidence, squares) for case, rows in fitted.groupby("case")]
        )

    title = (
        "Growth by edit, (r − 1) / n of the geometric mean of r = ‖W‖ / ‖W₀‖ after n edits, and which of "
        "r = 1 + b n, √(1 + b n) and exp(b n) fits log r best; b is "
        "its rate, a dash where no law explains 95 % of the variance; Σ‖Δ‖² / growth of ‖W‖² is above 1 "
        "where updates point against W"
    )
    return Table(title=title, build=build)


def _law(case: str, rows: pd.DataFrame, evidence: Evidence, squares: pd.Series) -> dict[str, object]:
    best = rows.groupby("law")["error"].sum().idxmin()
    fits = rows[rows["law"] == best]
    runs = list(fits["run"])
    agree = (rows.sort_values("error").drop_duplicates("run")["law"] == best).mean()
    rate = over_seeds(pd.DataFrame({"case": case, "value": fits["rate"]}), by=("case",)).iloc[0]
    edits = evidence.series(EDITED).groupby("run")["count"].max().reindex(runs)
    ratio = np.exp(np.log(evidence.last(EDITED).reindex(runs)).mean())
    is_lawful = fits["explained"].mean() > LAWFUL
    has_interval = is_lawful and len(runs) > 1
    return {
        "sequence": case,
        "growth by edit": (ratio - 1) / edits.mean(),
        "law": f"{best} ({agree:.0%} of runs)" if is_lawful else f"none, {best} next",
        "rate": rate["mean"] if is_lawful else np.nan,
        "low": rate["low"] if has_interval else np.nan,
        "high": rate["high"] if has_interval else np.nan,
        "explained": fits["explained"].mean(),
        "Σ‖Δ‖² / growth of ‖W‖²": squares.reindex(runs).mean(),
        "ES": evidence.last(SUCCESS).reindex(runs).mean(),
        "never edited": evidence.last(KNOWN).reindex(runs).mean(),
        "downstream": evidence.last(DOWNSTREAM).reindex(runs).mean(),
        "runs": len(runs),
    }


def _square_share(evidence: Evidence) -> pd.Series:
    """Σ ‖Δ‖² over the growth of ‖W‖², by run; the rest is the cross term 2⟨W, Δ⟩."""
    terms = growth_terms(evidence.collection.metrics)
    if terms.empty:
        return pd.Series(dtype=float)
    last = terms.groupby(["run", "term"])["value"].last().unstack()
    return last["growth_square"] / (last["growth_square"] + last["growth_cross"])

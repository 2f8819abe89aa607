"""What the runs show and the papers do not say: sentences whose numbers come from the runs.

A sentence says what was found even if it is not what was expected. One whose numbers are missing is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.studies.damage import alarms, law
from analysis.claims.study import EDITED
from analysis.results.markdown import written
from analysis.spelling import spelled

_RHO = "norm/growth_rho/edited"
_ALL = 0.9
"""Share of known facts from which nearly all are left."""
_COUNTS = 0.1
"""Smallest difference of two shares that counts."""
_SMALL = 0.5
"""|ρ| up to which growth is mostly that of steps at right angles."""
_TELLS = 0.75
"""Area under a ROC curve from which a number is said to tell."""
_MOST = 0.75
"""Share of editors, or of known facts, of which a sentence says "most"."""
_HARDLY = 1.05
"""Growth of the norm up to which it hardly moves."""


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """A sentence about the runs of an experiment, and the figure beside it."""

    experiment: str
    picture: str
    sentence: Callable[[Evidence], str]
    """Empty if the runs do not have its numbers."""


def what_orders_damage(evidence: Evidence) -> str:
    """Whether damage follows the norm or the functional drift."""
    table = law.table(evidence)
    if table.empty:
        return ""
    rows = table.set_index(["damage", "told by"])
    known = "known facts" if ("known facts", law.DRIFT) in rows.index else "facts never edited"
    damages = [d for d in (known, "loss on text") if {(d, law.DRIFT), (d, law.NORM)} <= {*rows.index}]
    if not damages:
        return ""
    drift, norm = (rows.loc[[(damage, ruler) for damage in damages]] for ruler in (law.DRIFT, law.NORM))
    orders = bool((drift["rank correlation"] >= law.ORDERS).all())
    better = bool((drift[law.EXPLAINED].to_numpy() > norm[law.EXPLAINED].to_numpy()).all())
    if not better:
        claim = "Functional drift does not tell the damage better than the norm does"
    elif orders:
        claim = (
            "Among controls of one sequence, functional drift explains more of the damage than the norm does"
        )
    else:
        claim = (
            "Functional drift explains more of the damage than the norm does, but does not put all of it in "
            "order"
        )
    others = law.table(evidence, without=law.HOLD_THE_NORM)
    numbers = [
        f"{written(float(d))} of the change in {damage}, the norm {written(float(n))}"
        f"{_without(others, damage, n)}"
        for damage, d, n in zip(damages, drift[law.EXPLAINED], norm[law.EXPLAINED], strict=True)
    ]
    points = float(drift["points by seed"].iloc[0])
    are_real = evidence.setting(law.CONTROL).eq("real").any()
    drifts = "real edits and their controls" if are_real else "controls of real edits"
    return (
        f"**{claim}.** Over {drifts} ({_measured(evidence, points)}, which depend on each other), a rising "
        f"curve of the functional drift, fitted to the same points, explains {'; and '.join(numbers)}."
    )


def _without(others: pd.DataFrame, damage: str, norm: float) -> str:
    """What the norm explains of a damage without the controls that hold it, if they are among the runs."""
    if others.empty:
        return ""
    share = float(others.set_index(["damage", "told by"])[law.EXPLAINED].get((damage, law.NORM), norm))
    return f" ({written(share)} without controls that hold it)" if share != norm else ""


def _by_control(evidence: Evidence, key: str) -> pd.DataFrame:
    """The mean over seeds of a metric: a row per count, a column per control."""
    rows = evidence.series(key)
    control = rows["run"].map(evidence.setting(law.CONTROL))
    return rows.groupby(["count", control.rename("control")])["value"].mean().unstack()


def norm_alone(evidence: Evidence) -> str:
    """What steps of the same length cost where keys are rare, and real steps where the norm is kept.

    At the last measurement at which the real edits leave a tenth of the facts: at the floor nothing differs.
    """
    _, key = law.knowledge(evidence)
    table, ratios = _by_control(evidence, key), _by_control(evidence, EDITED)
    names = ["real", "whitened_direction", "norm_kept"]
    if not {*names} <= {*ratios.columns} & {*table.columns}:
        return ""
    shares = table[table.index > 0].dropna(subset=names)
    counts = shares.index[shares["real"] >= 1 - _ALL]
    if counts.empty:
        return ""
    count = counts[-1]
    known, ratio = shares.loc[count], ratios.loc[count]
    real, whitened, kept = (float(known[name]) for name in names)
    if whitened >= _ALL and kept <= 1 - _ALL:
        title = (
            "Steps of the same length can cost nothing, and edits that leave the norm unchanged everything"
        )
    elif whitened - real >= _COUNTS and kept - real < _COUNTS:
        title = (
            "Keeping the norm saved none of the known facts, and steps of the same length cost less where "
            "keys are rare"
        )
    else:
        title = "What steps of one length cost depends on where they go"
    words = {
        "real": "real edits",
        "norm_kept": "these with W scaled back to its norm",
        "random_direction": "random steps as long",
        "whitened_direction": "such steps where keys are rare",
    }
    texts = [
        f"{text}, {written(float(ratio[name]))} times the norm, {written(float(known[name]))}"
        for name, text in words.items()
        if name in known and name in ratio
    ]
    left = f"Share of known facts left after {count:,} edits ({_seeds(evidence)})"
    return f"**{title}.** {left}: {'; '.join(texts)}."


def growth_is_pythagorean(evidence: Evidence) -> str:
    """How far growth is from that of orthogonal steps."""
    rho = evidence.last(_RHO)
    if rho.empty:
        return ""
    means = rho.groupby(evidence.runs["editor"].reindex(rho.index)).mean().sort_values()
    ends = [f"{written(float(means.iloc[place]))} ({spelled(means.index[place])})" for place in (0, -1)]
    small = int((means.abs() <= _SMALL).sum())
    title = (
        "Growth is mostly the sum of squares of steps that barely know of W"
        if small >= _MOST * len(means)
        else "Steps do not only go at right angles to W"
    )
    return (
        f"**{title}.** ‖W‖² = ‖W₀‖² + (1 + ρ) Σ‖Δ‖². ρ lies within ±{_SMALL} for {small} of {len(means)} "
        f"editors, from {' to '.join(ends)}; 0 is what steps at right angles to W give."
    )


def early_signs(evidence: Evidence) -> str:
    """What an early norm and an early functional drift tell about which runs lose most."""
    numbers = alarms.areas(evidence)
    if not {"norm ratio", "functional drift"} <= {*numbers.index}:
        return ""
    norm, drift = float(numbers["norm ratio"]), float(numbers["functional drift"])
    editors = evidence.runs["editor"].nunique()
    title = (
        "Early in a sequence the functional drift tells which runs will lose most, a large norm does not"
        if drift >= _TELLS > norm
        else "What an early number tells about which runs will lose most"
    )
    return (
        f"**{title}.** At an eighth of the edits, the area under the ROC curve is {written(drift)} for the "
        f"functional drift and {written(norm)} for the norm; 0.5 is chance, and below it a large number goes "
        f"with little loss. The {len(evidence.runs)} runs are {editors} editors with {_seeds(evidence)}: it "
        "tells editors apart."
    )


def forgets_at_a_small_norm(evidence: Evidence) -> str:
    """What the editor whose norm grew least has cost."""
    _, key = law.knowledge(evidence)
    ends = pd.DataFrame(
        {
            "norm": evidence.last(EDITED),
            "left": evidence.last(key),
            "drift": evidence.last(law.FUNCTIONAL),
            "loss": evidence.change(law.LOSS),
        }
    ).dropna()
    if ends.empty:
        return ""
    means = ends.groupby(evidence.runs["editor"].reindex(ends.index)).mean().sort_values("norm")
    editor, least = means.index[0], means.iloc[0]
    lost = least["left"] <= 1 - _MOST and least["norm"] <= _HARDLY
    title = (
        "A language model can lose most of what it knew while its norms hardly move"
        if lost
        else "What edits cost at the smallest growth of the norm"
    )
    edits = int(evidence.runs["edits"].max())
    return (
        f"**{title}.** {edits:,} edits by {spelled(editor)}: {written(float(least['norm']))} times the norm, "
        f"{written(float(least['left']))} of the known facts left, {written(float(least['loss']))} nats more "
        f"loss on text; the functional drift is {written(float(least['drift']))}."
    )


def what_reaches_the_end(evidence: Evidence) -> str:
    """Whether functional drift, or what of it reaches the last hidden state, orders what editors cost."""
    table = law.table(evidence)
    editors = evidence.runs["editor"].nunique()
    if table.empty or editors < 2:
        return ""
    known, _ = law.knowledge(evidence)
    rows = table[table["damage"] == known].set_index("told by")
    if not {law.REACH, law.DRIFT, law.NORM} <= {*rows.index}:
        return ""
    told = rows["rank correlation"]
    reach, drift, norm = (float(told[name]) for name in (law.REACH, law.DRIFT, law.NORM))
    loss = f"different editors in the order of how much of the {known} they lose"
    if drift >= law.ORDERS:
        title = f"Functional drift puts {loss}"
    elif reach >= law.ORDERS:
        title = (
            f"Functional drift does not put {loss}; the part of it that reaches the last hidden state does"
        )
    else:
        title = f"Neither functional drift nor its part that reaches the last hidden state puts {loss}"
    points = float(rows["points by seed"].iloc[0])
    return (
        f"**{title}.** Over sequences by {editors} editors ({_measured(evidence, points)}), the rank "
        f"correlation with it is {written(norm)} for the norm, {written(drift)} for functional drift, and "
        f"{written(reach)} for reach, the first-order change of the last hidden state along the drift, a "
        f"comparison made after the runs.{_of_text(table)}"
    )


def _of_text(table: pd.DataFrame) -> str:
    """The same correlations with the loss on text."""
    told = table[table["damage"] == "loss on text"].set_index("told by")["rank correlation"]
    if not {law.REACH, law.DRIFT, law.NORM} <= {*told.index}:
        return ""
    norm, drift, reach = (written(float(told[name])) for name in (law.NORM, law.DRIFT, law.REACH))
    return f" With the loss on text they are {norm}, {drift} and {reach}."


def _measured(evidence: Evidence, points: float) -> str:
    """For example `one seed, 12 measurements`, or `3 seeds, 12 measurements each`."""
    seeds = _seeds(evidence)
    return f"{seeds}, {points:.0f} measurements{'' if seeds == 'one seed' else ' each'}"


def _seeds(evidence: Evidence) -> str:
    """For example `one seed`, or `3 seeds`."""
    count = evidence.runs["seed"].nunique()
    return "one seed" if count == 1 else f"{count} seeds"


DISCOVERIES = (
    Discovery(experiment="collapse", picture="reach", sentence=what_reaches_the_end),
    Discovery(experiment="mechanism", picture="drift_known", sentence=what_orders_damage),
    Discovery(experiment="collapse", picture="downstream", sentence=forgets_at_a_small_norm),
    Discovery(experiment="mechanism", picture="norm_known", sentence=norm_alone),
    Discovery(experiment="alarms", picture="known", sentence=early_signs),
    Discovery(experiment="norms_editing", picture="growth", sentence=growth_is_pythagorean),
)
"""In the order of the page, which has the first `SHOWN` that the runs have numbers for."""
SHOWN = 5

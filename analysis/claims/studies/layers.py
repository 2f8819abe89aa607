"""Studies of where a fact is stored, by causal tracing, and where edits succeed."""

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.study import EDITED, SCORE, Study, Table
from analysis.claims.verdicts import Claim

_TRACING = "arXiv 2202.05262, section 2"


def _effect(evidence: Evidence, kind: str, position: str) -> pd.Series:
    """Largest effect over blocks of restoring a site, by run."""
    rows = evidence.matching(f"trace/{kind}", rf"{position}\.(?P<layer>\d{{1,3}})")
    return rows.groupby("run")["value"].max()


def _early_site(evidence: Evidence) -> pd.DataFrame:
    """MLP effect at the subject's last token minus that of attention there, each at its best block."""
    there = "subject_last"
    return evidence.repeats(
        _effect(evidence, "mlp", there) - _effect(evidence, "attention", there), ("model",)
    )


def _late_site(evidence: Evidence) -> pd.DataFrame:
    """Attention effect at the prompt's last token minus that of MLPs there, each at its best block."""
    return evidence.repeats(
        _effect(evidence, "attention", "last") - _effect(evidence, "mlp", "last"), ("model",)
    )


def _traced(evidence: Evidence) -> pd.DataFrame:
    """One row per model: probabilities and the blocks with the largest effects."""
    numbers = {
        "facts": evidence.last("trace/known/facts"),
        "P clean": evidence.last("trace/clean/mean"),
        "P corrupted": evidence.last("trace/corrupted/mean"),
        "MLP, last subject token: block": evidence.last("trace/peak/mlp"),
        "attention, last token: block": evidence.last("trace/late/attention"),
    }
    # the median of block numbers is a block
    return pd.DataFrame(numbers).groupby(evidence.runs["model"]).median().reset_index()


def _by_block(evidence: Evidence) -> pd.DataFrame:
    """By run: model, editor, seed, block, score, norm ratio, and effect of its MLP before any edit."""
    block = pd.to_numeric(evidence.setting("layers.edit").str.strip("[]"), errors="coerce")
    table = evidence.runs[["model", "editor", "seed"]].assign(
        block=block, score=evidence.last(SCORE), norm_ratio=evidence.last(EDITED)
    )
    rows = evidence.matching("trace/mlp", r"subject_last\.(?P<layer>\d{1,3})").astype({"layer": float})
    traced = rows.groupby(["run", "layer"])["value"].first()
    edited = pd.MultiIndex.from_arrays([table.index, table["block"]])
    return table.assign(effect=traced.reindex(edited).to_numpy()).dropna()


def _score_and_effect(evidence: Evidence) -> pd.DataFrame:
    """One row per editor and block: means over seeds."""
    rows = _by_block(evidence).rename(columns={"norm_ratio": "norm ratio"})
    numbers = ["score", "norm ratio", "effect"]
    return rows.groupby(["model", "editor", "block"])[numbers].mean().reset_index()


def _traced_is_best(evidence: Evidence) -> pd.DataFrame:
    """Score in the block with the largest effect minus the best score in another, by editor and seed."""
    rows = []
    for (model, editor, _), same in _by_block(evidence).groupby(["model", "editor", "seed"]):
        if len(same) > 1:
            ordered = same.sort_values("effect", ascending=False)["score"].tolist()
            rows.append({"case": f"{model} · {editor}", "value": ordered[0] - max(ordered[1:])})
    return pd.DataFrame(rows, columns=["case", "value"])


STUDIES = (
    Study(
        name="causal_trace",
        question="Which states of the unedited model carry a fact? "
        "The built-in models are made to have an early subject site: this checks the method and is no "
        "evidence of where real models keep facts.",
        claims=(
            Claim(
                statement="MLPs are decisive at the subject's last token.",
                source=_TRACING,
                reported="effect on P 0.066 of MLPs at the last subject token, 0.016 of attention (GPT2-XL)",
                quantity="largest mean effect over blocks of restoring MLPs at the subject's last token, "
                "minus that of restoring attention there",
                measure=_early_site,
                side="above",
            ),
            Claim(
                statement="Attention is decisive at the prompt's last token.",
                source=_TRACING,
                reported="a late site at the last token",
                quantity="largest mean effect over blocks of restoring attention at the prompt's last token, "
                "minus that of restoring MLPs there",
                measure=_late_site,
                side="above",
            ),
        ),
        figures=("tracing",),
        tables=(Table(title="What was traced", build=_traced),),
    ),
    Study(
        name="layer_sweep",
        question="In which block do edits succeed, and is it the one that tracing points to? Every block but "
        "the last is tried with the values that were chosen for block 0, which favours that. "
        "The built-in models are made to have an early subject site: this checks the method and is no "
        "evidence of where real models keep facts.",
        claims=(
            Claim(
                statement="The block with the largest traced effect is the best one to edit.",
                source="arXiv 2202.05262, contradicted by arXiv 2301.04213",
                reported="edits in the traced range succeed best; against it, no correlation",
                quantity="edit score in the block whose MLP has the largest effect at the subject's last "
                "token, minus the best score in another block",
                measure=_traced_is_best,
                side="above",
            ),
        ),
        figures=("layer_sweep",),
        tables=(
            Table(
                title="Score, growth of the edited norm, and traced effect by block, at equal edits",
                build=_score_and_effect,
            ),
        ),
    ),
)

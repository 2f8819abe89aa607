"""Measurements of two models in memory, by the names of their stages."""

from collections.abc import Sequence
from pathlib import Path

from analysis.stages.base import Measurement, compare
from editors.data import Fact
from editors.models.model import Model
from pipeline.build import build
from pipeline.notebook.composition import check_choice
from pipeline.notebook.fact_sources import fact_list
from pipeline.notebook.models import configured, loaded


def measure(
    unedited: Model | str | Path,
    edited: Model | str | Path,
    stages: str | Sequence[str] = ("norms", "activations"),
    *,
    facts: Fact | str | Path | Sequence[Fact | str | Path] = (),
    corpus: str | Path | None = None,
    tokens: int = 10_000,
) -> Measurement:
    """What distinguishes a model from the one it was made of; they need the same shape.

    `stages` are names of `conf/stage`; docs/metrics.md defines their keys. `facts` are those written into
    the edited model, if they are known, as for `edit`. `corpus` is a text file, whose blank lines separate
    documents, or a name of `conf/corpus`, in place of the model's own text; `tokens` tokens of it are read.

    Raises:
        ConfigError: for an unknown stage.
        ModelError: if a model cannot be loaded.
    """
    stages = [stages] if isinstance(stages, str) else stages
    for name in stages:
        check_choice("stage", name)
    written = fact_list(facts)
    first, second = loaded(unedited), loaded(edited)
    choices = [f"stage=[{','.join(stages)}]", "intervention=cpt", "tracker=none"]
    parts = build(configured(first, choices, {"text": {"tokens": tokens}}, corpus))
    return compare(parts.stages, first, second, written)

"""The hypernetwork that ships with the package is found by the published values and edits held-out facts."""

from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir

from editors.data import Fact
from editors.methods.mend.editor import SHIPPED
from editors.methods.mend.files import load
from editors.models.model import Model
from pipeline.build import Parts, build
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
from tests.pipeline.conftest import CONF


def parts() -> Parts:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(resolved(compose("config", ["model=tiny-gpt2", "editor=mend"])))


def first_choices(model: Model, prompts: list[str]) -> list[int]:
    ids, mask = model.encode(prompts)
    hidden = model.hidden(ids, mask)[torch.arange(len(prompts)), mask.sum(dim=1) - 1]
    return model.logits(hidden).argmax(dim=-1).tolist()


def shares(model: Model, facts: list[Fact], edit: Callable) -> tuple[float, float]:
    """Of edits that a fact's prompt gives the new object after, and of neighbours that stay."""
    written, kept = [], []
    for fact in facts:
        prompts = [fact.statement, *fact.neighbours]
        before = first_choices(model, prompts)
        update = edit(model, [fact]).update
        snapshot = model.snapshot(update)
        model.apply(update)
        after = first_choices(model, prompts)
        model.restore(snapshot)
        written.append(after[0] == model.encode([f" {fact.target_new}"])[0][0, 0])
        kept += [b == a for b, a in zip(before[1:], after[1:], strict=True)]
    return sum(written) / len(written), sum(kept) / len(kept)


def test_the_shipped_hypernetwork_edits_held_out_facts():
    """It edits facts of subjects on which it was not trained."""
    made = parts()
    model, editor, facts = made.model.load(), made.intervention.editor, made.data.load()
    assert editor.file(model).name in {path.name for path in SHIPPED.iterdir()}, "train it anew and ship it"
    editor.prepare(model)
    held_out = list(facts.held_out().facts)
    written, kept = shares(model, held_out[100::20], editor.edit)
    assert written > 0.6 and kept > 0.75
    _, origin = load(SHIPPED / editor.file(model).name)
    assert origin.trained_on["facts"] == len(facts.training().facts)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2e6

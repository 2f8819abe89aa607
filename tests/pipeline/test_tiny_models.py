"""Gates of the shipped model: what it knows, and that it can be edited."""

import random
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from analysis.efficacy import Efficacy
from editors.model.loading import Checkpoint
from editors.model.model import Model
from pipeline.build import build, resolved
from pipeline.interventions import KnowledgeEdit
from pipeline.resolvers import register_resolvers
from pipeline.world.facts import World
from pipeline.world.shelf import SHIPPED
from tests.pipeline.conftest import CONF

FOLDER = SHIPPED / "tiny-gpt2"
WORLD = World()


@pytest.fixture(scope="module")
def model() -> Model:
    return Checkpoint(name="tiny-gpt2", path=str(FOLDER), device="cpu").load()


@torch.no_grad()
def predicted(model: Model, prompts: Sequence[str]) -> torch.Tensor:
    """Next-token logits after every prompt."""
    rows = []
    for start in range(0, len(prompts), 256):
        ids, mask = model.encode(prompts[start : start + 256])
        rows.append(model.logits(model.hidden(ids, mask)[torch.arange(len(ids)), mask.sum(dim=1) - 1]))
    return torch.cat(rows)


def first_tokens(model: Model, words: Sequence[str]) -> torch.Tensor:
    return torch.tensor([model.tokenizer(f" {word}")["input_ids"][0] for word in words])


def recalled(model: Model, prompts: Sequence[str], objects: Sequence[str]) -> float:
    right = predicted(model, prompts).argmax(dim=1) == first_tokens(model, objects)
    return float(right.double().mean())


def test_it_is_small_and_holds_nothing_but_weights_and_text() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) <= 12e6
    assert all(Path(name).suffix in (".json", ".safetensors") for name in files)


def test_it_recalls_the_facts_from_training_templates(model: Model) -> None:
    facts = WORLD.facts
    assert recalled(model, [f.statement for f in facts], [f.target_true for f in facts]) >= 0.98


def test_it_recalls_them_from_paraphrases_it_never_saw(model: Model) -> None:
    pairs = [(p, fact.target_true) for fact in WORLD.unheard for p in fact.paraphrases]
    prompts, objects = zip(*pairs, strict=True)
    assert recalled(model, prompts, objects) >= 0.9


# chance is 0.5, 0.25, 0.25 and 0.5
@pytest.mark.parametrize(
    ("task", "least"), [("sentiment", 0.95), ("qa", 0.7), ("choice", 0.5), ("pair", 0.9)]
)
def test_it_solves_the_downstream_tasks(model: Model, task: str, least: float) -> None:
    items = WORLD.tasks[task]
    logits = predicted(model, [item.text for item in items])
    right = 0
    for row, item in zip(logits, items, strict=True):
        right += int(row[first_tokens(model, item.choices)].argmax()) == item.answer
    assert right / len(items) >= least


@pytest.mark.parametrize("editor", ["rome", "memit"])
def test_single_edits_succeed_at_the_configured_layers(model: Model, editor: str, tmp_path: Path) -> None:
    register_resolvers()
    choices = ["model=tiny-gpt2", f"editor={editor}", f"editor.moments.folder={tmp_path}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        intervention = build(resolved(compose("config", choices))).intervention
    assert isinstance(intervention, KnowledgeEdit)
    intervention.editor.prepare(model)
    efficacy = Efficacy()
    efficacy.prepare(model)
    rows = []
    for fact in random.Random(0).sample(WORLD.facts, 40):
        edit = intervention.editor.edit(model, [fact])
        before = model.snapshot(edit.update)
        model.apply(edit.update)
        rows.append(efficacy.score([fact]))
        model.restore(before)
    means = pd.concat(rows).mean(numeric_only=True)
    assert means["success.rewrite"] >= 0.95
    assert means["success.paraphrase"] >= 0.75
    assert means["success.neighbour"] >= 0.9

"""The shipped models know their world, and tiny-gpt2 can be edited."""

import random
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from analysis.stages.efficacy.stage import Efficacy
from editors.models.model import Model
from pipeline.build import build
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
from pipeline.data.world.builtin import BuiltInCheckpoint
from pipeline.data.world.datasets import WorldFacts
from pipeline.data.world.facts import World
from pipeline.data.world.shipped_models import RECIPES, shipped_folder
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from tests.pipeline.conftest import CONF

WORLD = World()


@pytest.fixture(scope="module")
def model() -> Model:
    """The model that is edited here."""
    return loaded("tiny-gpt2")


@pytest.fixture(scope="module", params=RECIPES)
def each(request: pytest.FixtureRequest) -> Model:
    return loaded(request.param)


def loaded(name: str) -> Model:
    return BuiltInCheckpoint(name=name, device="cpu").load()


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


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_small_and_holds_nothing_but_weights_and_text(name: str) -> None:
    files = {path.name: path.stat().st_size for path in shipped_folder(name).iterdir()}
    assert sum(files.values()) <= 6e6
    assert all(Path(name).suffix in (".json", ".safetensors") for name in files)


def test_it_recalls_the_facts_from_training_templates(each: Model) -> None:
    facts = WORLD.facts
    assert recalled(each, [f.statement for f in facts], [f.target_true for f in facts]) >= 0.98


def test_it_recalls_them_from_paraphrases_it_never_saw(each: Model) -> None:
    pairs = [(p, fact.target_true) for fact in WORLD.unheard for p in fact.paraphrases]
    prompts, objects = zip(*pairs, strict=True)
    assert recalled(each, prompts, objects) >= 0.9


# chance is 0.5, 0.25, 0.25 and 0.5
@pytest.mark.parametrize(
    ("task", "least"), [("sentiment", 0.95), ("qa", 0.7), ("choice", 0.5), ("pair", 0.9)]
)
def test_it_solves_the_downstream_tasks(each: Model, task: str, least: float) -> None:
    items = WORLD.tasks[task]
    logits = predicted(each, [item.text for item in items])
    right = 0
    for row, item in zip(logits, items, strict=True):
        right += int(row[first_tokens(each, item.choices)].argmax()) == item.answer
    assert right / len(items) >= least


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the second moments, computed by the first editor and shared by all."""
    return tmp_path_factory.mktemp("moments")


def configured_intervention(editor: str, folder: Path) -> KnowledgeEdit:
    """The quickstart's intervention of 200 edits, with configured values."""
    register_resolvers()
    choices = ["model=tiny-gpt2", f"editor={editor}", "edits=200", f"moments.folder={folder}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        intervention = build(resolved(compose("config", choices))).intervention
    assert isinstance(intervention, KnowledgeEdit)
    return intervention


@pytest.mark.parametrize("editor", ["rome", "memit"])
def test_single_edits_succeed_at_the_configured_layers(model: Model, editor: str, moments: Path) -> None:
    method = configured_intervention(editor, moments).editor
    method.prepare(model)
    efficacy = Efficacy()
    efficacy.prepare(model)
    rows = []
    for fact in random.Random(0).sample(WORLD.facts, 40):
        edit = method.edit(model, [fact])
        before = model.snapshot(edit.update)
        model.apply(edit.update)
        rows.append(efficacy.score([fact]))
        model.restore(before)
    means = pd.concat(rows).mean(numeric_only=True)
    assert means["success.rewrite"] >= 0.95
    assert means["success.paraphrase"] >= 0.75
    assert means["success.neighbour"] >= 0.9


def after_200_edits(editor: str, folder: Path) -> tuple[float, float]:
    """ES over the edits, and the share of facts about unedited people that the model still knows."""
    model = loaded("tiny-gpt2")
    intervention = configured_intervention(editor, folder)
    plan = intervention.plan(WorldFacts().load())
    intervention.prepare(model, plan)
    for _ in intervention.steps(model, plan):
        pass
    logits = predicted(model, [fact.statement for fact in plan.stream])
    new, true = (
        logits.gather(1, first_tokens(model, words)[:, None])
        for words in ([f.target_new for f in plan.stream], [f.target_true for f in plan.stream])
    )
    untouched = plan.untouched
    known = recalled(model, [f.statement for f in untouched], [f.target_true for f in untouched])
    return float((new > true).double().mean()), known


@pytest.mark.long
def test_200_edits_by_encore_leave_the_model_healthy(moments: Path) -> None:
    success, known = after_200_edits("encore", moments)
    assert success >= 0.9
    assert known >= 0.7


@pytest.mark.long
@pytest.mark.parametrize("editor", ["rome", "memit"])
def test_the_same_edits_by_rome_and_memit_break_it(editor: str, moments: Path) -> None:
    _, known = after_200_edits(editor, moments)
    assert known <= 0.6

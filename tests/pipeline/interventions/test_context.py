"""Runs of `editor=context`: stages and the check of edits read prompts with the facts edited so far."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from analysis.stages.base import Observation
from analysis.stages.efficacy.stage import Efficacy
from editors.errors import ConfigError
from editors.models.tokenization import tokenize
from editors.prompts.context import InContext
from pipeline.build import build
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
from pipeline.interventions.base import Plan
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from pipeline.launch import launch
from tests.paths import CONF
from tests.tiny import FACTS, tiny_model

Composed = Callable[..., DictConfig]
TEMPLATE = "The river. {}."


@pytest.fixture
def in_context(overrides: list[str]) -> Composed:
    """A function that composes a run in context, without the values that the fixture gives to MEMIT."""
    register_resolvers()
    own = [each for each in overrides if not each.startswith(("editor.", "layers."))]

    def composed_with(*more: str) -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [*own, "editor=context", f"editor.template='{TEMPLATE}'", *more])

    return composed_with


def rows(root: Path) -> list[dict]:
    (path,) = root.glob("test/*-*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_measures_the_unedited_model_with_the_facts_in_its_prompts(in_context, tmp_path: Path):
    config = in_context("stage.efficacy.cadence.every=2", "batch_size=2")
    parts = build(resolved(config))
    assert isinstance(parts.intervention, KnowledgeEdit)
    stream = parts.intervention.plan(parts.data.load()).stream
    model = parts.model.load()
    launch(config, tmp_path)
    start, half, end = rows(tmp_path)
    for row, count in ((half, 2), (end, 4)):
        stage = Efficacy()
        stage.prepare(model, stream)
        seen, reader = stream[:count], InContext(template=TEMPLATE).reader(stream[:count])
        moment = Observation(count=count, total=4, latest=seen[-2:], seen=seen, reader=reader)
        expected = stage.measure(model, moment)
        shared = {key for key in expected.keys() & row.keys() if isinstance(expected[key], float)}
        assert len(shared) > 20
        assert {key: row[key] for key in shared} == {key: expected[key] for key in shared}
    norms = {key for key in end if key.startswith("norm/frobenius_ratio/")}
    assert norms and all(end[key] == 1.0 for key in norms)
    assert not any(key.startswith("norm/delta") for key in end)
    assert start["edit/known/unedited"] == end["edit/known/unedited"]


def test_an_edit_took_if_the_model_says_its_object_after_the_fact():
    model, reader = tiny_model(double=False), InContext().reader(FACTS)
    editing = KnowledgeEdit(editor=InContext(), edits=len(FACTS))
    for change in editing.steps(model, Plan(stream=FACTS)):
        (fact,) = change.facts
        prompt = reader(fact.statement)
        ids = tokenize(model.tokenizer, f"{prompt} {fact.target_new}").ids
        count = len(ids) - len(tokenize(model.tokenizer, prompt).ids)
        with torch.no_grad():
            choices = model.hf(torch.tensor([ids[:-1]])).logits[0, -count:].argmax(dim=1)
        assert change.details["took"] == [float(tuple(choices.tolist()) == ids[-count:])]
        assert not change.update


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("intervention.keep_updates=true", r"keep_updates=true, but editor=context changes no matrix"),
        ("+intervention.order=clustered", r"order=clustered .* editor=context edits none"),
    ],
)
def test_what_needs_a_changed_matrix_is_refused(in_context, override: str, names: str):
    with pytest.raises(ConfigError, match=names):
        build(resolved(in_context(override)))

"""Values of model–editor pairs: every file names its source, every pair builds or names the missing file."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from editors.errors import ConfigError
from pipeline.build import build
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from tests.pipeline.conftest import CONF
from tests.smollm2 import from_hub

HPARAMS = CONF / "hparams"
EDITORS = sorted(path.stem for path in (CONF / "editor").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "hf")
WITHOUT_BLOCKS = ("context",)
"""Editors that change no matrix."""
FILES = sorted(HPARAMS.glob("*/*.yaml"))
SOURCED = ("hparams/", "config/", "configs/", "Ours", "experiments/")
"""One of these occurs in the comment on the source of a file's values."""


def is_tiny(model: str) -> bool:
    """Whether the model shares the values of `hparams/tiny`."""
    return model.startswith("tiny-")


def has_values(model: str, editor: str) -> bool:
    """Whether there is a file for the pair, or one for all tiny models."""
    folders = (model, "tiny") if is_tiny(model) else (model,)
    return any((HPARAMS / folder / f"{editor}.yaml").exists() for folder in folders)


PAIRS = [(model, editor) for model in MODELS for editor in EDITORS if has_values(model, editor)]


def composed(model: str, editor: str) -> DictConfig:
    register_resolvers()
    data = ["data=counterfact", "data.path=facts.jsonl"] if "counterfact" in model else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hub(compose("config", [f"model={model}", f"editor={editor}", *data]))


@pytest.mark.parametrize(("model", "editor"), PAIRS, ids="-".join)
def test_a_pair_with_values_builds(model: str, editor: str):
    config = composed(model, editor)
    intervention = build(resolved(config)).intervention
    assert isinstance(intervention, KnowledgeEdit)
    sites = intervention.editor.sites
    assert sites and all(0 <= site.layer < config.model.depth for site in sites)


@pytest.mark.parametrize("model", MODELS)
def test_a_pair_without_values_names_the_file_to_write(model: str):
    """An editor that changes no matrix needs none."""
    for editor in EDITORS:
        if has_values(model, editor):
            continue
        config = composed(model, editor)
        if editor in WITHOUT_BLOCKS:
            intervention = build(resolved(config)).intervention
            assert isinstance(intervention, KnowledgeEdit) and not intervention.editor.sites
        else:
            with pytest.raises(ConfigError, match=rf"hparams/{model}/{editor}\.yaml"):
                resolved(config)


def test_every_editor_has_values_for_every_model_of_the_papers_size():
    """So that every experiment composes with overlay=paper.

    `growth` edits no facts, and needs its blocks.
    """
    overlay = yaml.safe_load((CONF / "overlay" / "paper.yaml").read_text())
    models = overlay["hydra"]["sweeper"]["params"]["model"].split(",")
    lacking = [
        (model, editor)
        for model in models
        for editor in EDITORS
        if editor not in ("growth", *WITHOUT_BLOCKS) and not has_values(model, editor)
    ]
    assert len(models) == 4 and not lacking


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_file_names_its_command_and_source_and_repeats_no_value(path: Path):
    model, editor = path.parent.name, path.stem
    assert model in (*MODELS, "tiny") and editor in EDITORS
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    example = "tiny-gpt2" if model == "tiny" else model
    assert comments[1].split()[:6] == f"# python -m pipeline model={example} editor={editor}".split()
    assert any(source in " ".join(comments[2:]) for source in SOURCED)
    values = yaml.safe_load(path.read_text()) or {}
    parents = [HPARAMS.parent / f"{parent[1:]}.yaml" for parent in values.pop("defaults", ["_self_"])[:-1]]
    for parent in parents or [HPARAMS / "tiny" / path.name] * (is_tiny(model)):
        if parent != path and parent.exists():
            assert not _leaves(values) & _leaves(yaml.safe_load(parent.read_text()))


def _leaves(node: object, path: str = "") -> set[str]:
    """Every value with its path, as text."""
    if isinstance(node, dict):
        return {leaf for key, value in node.items() for leaf in _leaves(value, f"{path}.{key}")}
    return {f"{path}={node}"}

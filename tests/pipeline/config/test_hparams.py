"""Every model with every editor: published or our own values that build, or a sentence that asks for them."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from editors.errors import ConfigError
from pipeline.build import build
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
from tests.pipeline.conftest import CONF

EDITORS = sorted(path.stem for path in (CONF / "editor").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "hf")
FILES = sorted((CONF / "hparams").glob("*.yaml"))
SOURCED = ("hparams/", "Ours", "experiments/")
"""A file of values says whose they are."""


@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("model", MODELS)
def test_every_pair_builds_or_says_how_to_supply_values(model: str, editor: str):
    register_resolvers()
    data = ["data=counterfact", "data.path=facts.jsonl"] if "counterfact" in model else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"model={model}", f"editor={editor}", *data])
    if (CONF / "hparams" / f"{model}_{editor}.yaml").exists():
        sites = build(resolved(config)).intervention.editor.sites
        assert sites and all(0 <= site.layer < config.model.depth for site in sites)
    else:
        with pytest.raises(ConfigError, match=rf"hparams/{model}_{editor}\.yaml"):
            resolved(config)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_values_belong_to_a_model_and_an_editor_and_name_their_source(path: Path):
    model, editor = next(
        (m, path.stem.removeprefix(f"{m}_")) for m in MODELS if path.stem.startswith(f"{m}_")
    )
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert comments[1].startswith(f"# python -m pipeline model={model} editor={editor}")
    assert any(source in " ".join(comments[2:]) for source in SOURCED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_values_that_build_on_others_state_only_what_differs(path: Path):
    values = yaml.safe_load(path.read_text()) or {}
    for parent in values.pop("defaults", ["_self_"])[:-1]:
        inherited = yaml.safe_load((path.parent / f"{parent}.yaml").read_text())
        assert not set(_leaves(values)) & set(_leaves(inherited))


def _leaves(node: object, path: str = "") -> list[str]:
    """Every value with its path, as text."""
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in _leaves(value, f"{path}.{key}")]
    return [f"{path}={node}"]

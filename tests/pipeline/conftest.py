"""A random model, a facts file and a text on disk, and the configuration that runs on them."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from pipeline.config.resolvers import register_resolvers
from pipeline.sweeps import search
from tests.paths import CONF
from tests.pipeline.conf_cache import keep_conf
from tests.tiny import save_tiny

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PEOPLE = "Ada Bob Cleo Dan Eve Finn Gus Hal".split()


@pytest.fixture(scope="session", autouse=True)
def plugins() -> None:
    """Register the sweepers with Hydra, as the command line does before it composes."""
    search.install()


@pytest.fixture(scope="session", autouse=True)
def conf_in_memory() -> Iterator[None]:
    """Files of `conf/` are read once per process."""
    with pytest.MonkeyPatch.context() as patch:
        keep_conf(patch)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random four-block GPT-2."""
    return save_tiny("gpt2", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`facts.jsonl` with one fact per person and a second one for the first, and `text.txt`."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = [_row(i, name, "The mother tongue of {} is", "French") for i, name in enumerate(PEOPLE)]
    rows.append(_row(99, PEOPLE[0], "{} walks to the", "river"))
    (folder / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text.txt").write_text("\n\n".join(_babble()))
    return folder


@pytest.fixture
def overrides(checkpoint: Path, inputs: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run on these files that takes seconds."""
    return [
        "model=hf",
        "model.name=random",
        f"model.path={checkpoint}",
        "model.depth=4",
        "corpus@model.corpus=file",
        f"model.corpus.path={inputs / 'text.txt'}",
        "data=counterfact",
        f"data.path={inputs / 'facts.jsonl'}",
        "layers.edit=[0,1]",
        "editor.preservation_weight=10",
        "editor.targets.steps=4",
        "moments=tokens",
        "moments.tokens=3000",
        f"moments.folder={tmp_path / 'moments'}",
        "edits=4",
        "tracker=none",
        "name=test",
    ]


@pytest.fixture
def composed(overrides: list[str]) -> Callable[..., DictConfig]:
    """A function that composes the configuration with `overrides` and more."""
    register_resolvers()

    def composed_with(*more: str) -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [*overrides, *more])

    return composed_with


def _babble() -> list[str]:
    """Random letters: many different tokens give second moments of full rank."""
    rng = random.Random(0)
    return [" ".join("".join(rng.choices(LETTERS, k=4)) for _ in range(12)) for _ in range(120)]


def _row(case: int, name: str, prompt: str, true: str) -> dict:
    return {
        "case_id": case,
        "prompt": prompt,
        "subject": name,
        "target_new": "English" if case % 2 else "town",
        "target_true": true,
        "paraphrase_prompts": [f"People know that {name} speaks"],
        "neighborhood_prompts": [prompt.replace("{}", other) for other in PEOPLE if other != name][:2],
    }

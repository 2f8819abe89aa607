"""The recipes of docs/cookbook.md that need nothing else run as they stand, with fewer edits."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
MARKED = re.compile(r"^\*(SmolLM2|GPU|A cluster|Your folders)\b", re.M)
"""Begins the line that says what a recipe needs."""
FEWER = ("edits=2", "seed=0", "tracker=none", "launcher.threads=1", "text.tokens=3000")


def commands(recipe: str) -> list[list[str]]:
    """The commands of a recipe, without the interpreter."""
    lines = recipe.replace("\\\n", "").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(".venv/bin/python ")]


UNMARKED = {title: commands(text) for title, text in RECIPES.items() if not MARKED.search(text)}


def test_recipes_with_commands_are_marked_or_run():
    assert len(RECIPES) >= 10
    assert sum(map(bool, UNMARKED.values())) >= 6
    assert all("```" in RECIPES[title] for title in RECIPES.keys() - UNMARKED.keys())


@pytest.mark.long
@pytest.mark.parametrize("title", [title for title, lines in UNMARKED.items() if lines])
def test_a_recipe_runs(title: str, tmp_path: Path):
    ids: list[str] = []
    for words in UNMARKED[title]:
        is_run = words[1] == "pipeline" and ("=" in words[2] or words[2] == "-m")
        line = [word.replace("<id>", ids[0]) if "<id>" in word else word for word in words]
        printed = _output([*line, *(FEWER if is_run else ())], tmp_path)
        if words[2] == "ledger":
            ids = re.findall(r"world-\d+-\w+", printed)
    for block in re.findall(r"```python\n(.*?)```", RECIPES[title], re.S):
        assert _output(["-c", block], tmp_path)


def _output(words: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout

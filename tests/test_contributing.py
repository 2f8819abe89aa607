"""The templates of docs/extend.md work as they stand, in a folder outside of the project."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.pipeline.forked import forked

PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
TEMPLATE = re.compile(r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block whose first line is a comment with the path of the file."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with every template of the page."""
    folder = tmp_path_factory.mktemp("mine")
    templates = TEMPLATE.findall(PAGE)
    assert len(templates) == 10
    for name, content in [*templates, ("my_package/__init__.py", "")]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def commands() -> list[list[str]]:
    """The commands above the templates, without the interpreter."""
    text = PAGE.replace("\\\n", "")
    section = text[text.index("## Templates") : text.index("## An editor")]
    return [line.split()[1:] for line in section.splitlines() if line.startswith("python -m")]


@pytest.mark.slow
def test_every_template_works_by_the_commands_of_the_page(folder: Path):
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "HF_HUB_OFFLINE": "1"}
    run, figures = commands()
    for _, package, *arguments in ([*run, "edits=2", "tracker=none", "launcher.threads=1"], figures):
        done = forked(
            arguments, folder, environment=environment, search=[folder], module=f"{package}.__main__"
        )
        assert done.returncode == 0, done.stderr
    (metrics,) = folder.glob("outputs/mine/*-*/metrics.jsonl")
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert last["edits"] == 2 and last["norm/frobenius_ratio/edited"] > 1
    assert last["change/largest/edited"] > 0 and last["text/entropy/change"] != 0
    assert last["downstream/capitals/acc"] in (0, 1)
    assert list(folder.glob("outputs/mine/figures/mine.*"))

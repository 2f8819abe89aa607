"""What the tutorial, its notebook, docs/python.md and the README say in Python runs as it stands."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import normscope
from editors.updates import Site
from pipeline.data.world.builtin import BuiltInCheckpoint
from pipeline.data.world.datasets import WorldText
from tests.paths import ROOT
from tests.smollm2 import require_smollm2


def blocks(text: str) -> list[str]:
    """The Python of a page."""
    return [block.strip() for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)]


def cells(kind: str) -> list[dict[str, Any]]:
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, and no window for figures."""
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    yield tmp_path
    plt.close("all")


REAL = "smollm2-135m"


@pytest.mark.slow
def test_the_tutorial_edits_measures_saves_and_draws(elsewhere: Path, capsys):
    """All of it but the blocks on the real model, which the next test runs."""
    names: dict[str, Any] = {}
    for block in blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        if REAL not in block:
            exec(block, names)
    printed = capsys.readouterr().out
    success = float(re.findall(r"ES 0.00 → (\S+),", printed)[0])
    assert success >= 0.9
    assert names["facts"][0].target_new in re.findall(r"after: (.*)", printed)[0]
    assert names["norms"][-1] > 2 * names["norms"][0] and len(names["norms"]) == 21
    assert {path.name for path in elsewhere.iterdir()} == {"outputs", "norms.png", "edited-model"}
    ratio = names["numbers"]["norm/frobenius_ratio/edited"]
    saved = AutoModelForCausalLM.from_pretrained("edited-model").transformer.h[0].mlp.c_proj.weight
    assert float(saved.detach().norm()) == pytest.approx(ratio * names["norms"][0], rel=1e-5)


@pytest.mark.slow
def test_the_tutorial_edits_a_real_model(elsewhere: Path, capsys):
    require_smollm2(elsewhere)
    names: dict[str, Any] = {"ns": normscope}
    (block,) = (
        each for each in blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")) if REAL in each
    )
    exec(block, names)
    printed = capsys.readouterr().out
    said = [fact.target_new in printed.split(fact.statement)[1][:40] for fact in names["mine"]]
    assert sum(said) >= 2, printed


@pytest.mark.slow
def test_the_readme_edits_a_real_model(elsewhere: Path):
    require_smollm2(elsewhere)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(*blocks(readme), names)
    before, after = names["result"].before, names["result"].after
    assert len(after) == 3
    for prompt in after:
        row = f"| {prompt} | {before[prompt]} | {after[prompt]} |"
        assert " ".join(row.split()) in readme


@pytest.mark.slow
def test_the_cookbook_edits_a_real_model(elsewhere: Path, capsys: pytest.CaptureFixture[str]):
    require_smollm2(elsewhere)
    page = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
    exec(*(block for block in blocks(page) if REAL in block), {})
    assert "city of Rome" in capsys.readouterr().out


def test_the_notebook_is_the_tutorial_without_outputs():
    tutorial = blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    assert ["".join(cell["source"]).strip() for cell in cells("code")] == tutorial
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells("code"))
    assert len(cells("markdown")) >= len(tutorial)


def test_what_the_page_does_from_python_runs(elsewhere: Path, capsys: pytest.CaptureFixture[str]):
    first, ask, second, third = blocks((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    exec(first, names)
    capsys.readouterr()
    exec(ask, names)
    assert "Tom Klazoust speaks Polish" in capsys.readouterr().out
    unedited = BuiltInCheckpoint(name="tiny-gpt2").load()
    weight = unedited.weight("mlp_down", 0)
    (elsewhere / "text.txt").write_text("\n\n".join(islice(WorldText(), 400)))
    names |= {"unedited": unedited, "edited": names["model"]}
    assert torch.equal(names["model"].weight("mlp_down", 0), weight), "undone"
    names["model"].write(Site("mlp_down", 0), 3 * weight)
    exec(second, names)
    assert names["numbers"]["norm/frobenius_ratio/edited"] == pytest.approx(3)
    path = Path(re.findall(r'load_file\("(.*?)"\)', third)[0])
    path.parent.mkdir(parents=True)
    save_file({"mlp_down.00": (2 * weight).contiguous()}, path)
    exec(third, names)
    assert torch.equal(names["model"].weight("mlp_down", 0), 2 * weight)

"""The house rules that a machine can check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "editors": {"analysis", "pipeline", "hydra", "omegaconf", "wandb"},
    "analysis": {"pipeline", "hydra", "omegaconf", "wandb"},
}


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_down_only(package: str):
    upward = {
        str(path.relative_to(ROOT)): imports(path) & FORBIDDEN[package]
        for path in (ROOT / package).rglob("*.py")
    }
    assert not {path: names for path, names in upward.items() if names}


def test_no_module_keeps_state_in_a_global():
    for path in [
        p for package in ("editors", "analysis", "pipeline") for p in (ROOT / package).rglob("*.py")
    ]:
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree)), path


def test_every_metric_key_that_a_stage_writes_is_documented():
    documented = (ROOT / "docs" / "metrics.md").read_text()
    for path in ("norms.py", "efficacy.py", "downstream.py"):
        for node in ast.walk(ast.parse((ROOT / "analysis" / path).read_text())):
            if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                key = str(node.values[0].value)
                if key.startswith(("norm/", "edit/", "downstream/")) and key.count("/") == 2:
                    assert key.split("{")[0] in documented, key

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


AREAS = (
    "norm/",
    "activation/",
    "probe/",
    "edit/",
    "generation/",
    "text/",
    "downstream/",
    "alarm/",
    "time/",
    "mend/",
    "train/",
    "lora/",
    "trace/",
)


def keys_of(path: Path) -> set[str]:
    """Metric keys that a file writes, up to the first part that is computed."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            whole = "".join(str(v.value) if isinstance(v, ast.Constant) else "{" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            whole = node.value
        else:
            continue
        if whole.startswith(AREAS) and whole.count("/") == 2 and " " not in whole:
            found.add(whole.split("{")[0])
    return found


def test_every_metric_key_that_is_written_is_documented():
    documented = (ROOT / "docs" / "metrics.md").read_text()
    keys = {
        key
        for package in ("analysis", "pipeline")
        for path in (ROOT / package).rglob("*.py")
        for key in keys_of(path)
    }
    assert len(keys) > 30
    assert not {key for key in keys if key not in documented}

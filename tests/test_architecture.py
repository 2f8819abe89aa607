"""The house rules that a machine can check."""

import ast
import importlib
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from analysis.metrics import areas, metric_of, metrics
from tests.metric_rows import not_in_one_row
from tests.paths import ROOT

PACKAGES = ("editors", "analysis", "pipeline")
ALLOWED = {
    "editors.errors": "",
    "editors.updates": "errors",
    "editors.data": "errors",
    "editors.phases": "",
    "editors.disk": "",
    "editors.digests": "",
    "editors.hub": "errors",
    "editors.text_files": "errors",
    "editors.tensor_files": "digests disk errors",
    "editors.update_files": "errors updates tensor_files",
    "editors.solvers": "errors",
    "editors.models": "phases disk errors updates data digests text_files hub",
    "editors.moments": "phases disk errors data tensor_files text_files models",
    "editors.base": "phases errors updates data models",
    "editors.regularizers": "errors updates data solvers models base",
    "editors.prompts": "phases errors updates data models base",
    "editors.controls": "phases errors updates data update_files models moments base",
    "editors.locate": "phases errors updates data text_files solvers models moments base regularizers",
    "editors.methods": (
        "phases disk errors updates data tensor_files text_files solvers models moments base regularizers "
        "locate"
    ),
    "analysis.units": "",
    "analysis.metrics": "",
    "analysis.spelling": "",
    "analysis.linalg": "",
    "analysis.interrupts": "",
    "analysis.plugins": "",
    "analysis.statistics": "",
    "analysis.inference": "",
    "analysis.stages": "units linalg statistics inference",
    "analysis.results": "units metrics statistics",
    "analysis.plots": "units metrics spelling plugins statistics results",
    "analysis.claims": "spelling statistics results plots",
    "analysis.reports": "units metrics spelling results plots claims",
    "analysis.selection": "results",
    "analysis.command_line": "results selection plots reports",
    "analysis.__main__": "interrupts command_line",
    "pipeline.paths": "",
    "pipeline.config": "paths",
    "pipeline.data": "",
    "pipeline.runs": "paths config",
    "pipeline.checkpoints": "runs",
    "pipeline.interventions": "data runs checkpoints",
    "pipeline.tracking": "config runs checkpoints interventions progress",
    "pipeline.build": "config data interventions tracking",
    "pipeline.notebook": "paths config interventions tracking build",
    "pipeline.experiment": "config data runs checkpoints interventions tracking build",
    "pipeline.launch": "paths config runs experiment",
    "pipeline.progress": "runs sweeps",
    "pipeline.launchers": "paths config runs progress experiment",
    "pipeline.sweeps": "config runs",
    "pipeline.commands": "paths config data runs checkpoints tracking build sweeps progress",
    "pipeline.command_line": "paths config runs commands launch launchers sweeps",
    "pipeline.__main__": "command_line",
}
"""What each file or folder of a package may import of the same package."""
DOWNWARD = {"editors": set(), "analysis": {"editors"}, "pipeline": {"editors", "analysis"}}
"""Other packages of this project that a package may import."""
ONLY_IN = {
    "hydra": "config runs sweeps launchers launch command_line notebook",
    "omegaconf": "config runs sweeps launchers launch command_line notebook",
    "wandb": "tracking commands",
}
"""Parts of `pipeline` that may import these; `editors` and `analysis` may not."""
BARRED = {"pipeline": {"analysis.claims", "analysis.reports"}}
"""Reading of many runs, which a run has no use for."""


def name_of(path: Path) -> str:
    """The module's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module}
    return found


def part_of(module: str) -> str:
    """The file or folder of a package in which a module lies."""
    return ".".join(module.split(".")[:2])


IMPORTS = {module: imports(path) for module, path in MODULES.items()}


@pytest.mark.parametrize("part", sorted({part_of(module) for module in MODULES} - set(PACKAGES)))
def test_a_part_imports_only_what_the_table_allows(part: str):
    package = part.split(".")[0]
    allowed = {part} | {f"{package}.{name}" for name in ALLOWED[part].split()}
    found = {
        module: {
            other
            for other in others
            if other.split(".")[0] in PACKAGES
            and part_of(other) not in allowed
            and (other.split(".")[0] not in DOWNWARD[package] or part_of(other) in BARRED.get(package, ()))
        }
        for module, others in IMPORTS.items()
        if part_of(module) == part
    }
    assert not {module: wrong for module, wrong in found.items() if wrong}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library: str):
    allowed = {f"pipeline.{name}" for name in ONLY_IN[library].split()}
    users = {part_of(m) for m, others in IMPORTS.items() if library in {o.split(".")[0] for o in others}}
    assert users <= allowed


def test_no_files_import_each_other_in_a_circle():
    graph = {module: others & MODULES.keys() - {module} for module, others in IMPORTS.items()}
    TopologicalSorter(graph).prepare()


def test_no_folder_holds_more_than_twelve_files():
    counts = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert not {str(folder): count for folder, count in counts.items() if count > 12}


PARTS = sorted(module for module, path in MODULES.items() if path.name == "__init__.py")


@pytest.mark.parametrize("package", PARTS)
def test_a_package_says_what_it_is_for_and_its_public_names_exist(package: str):
    module = importlib.import_module(package)
    assert module.__doc__ and len(module.__doc__) > 30
    assert all(hasattr(module, name) for name in getattr(module, "__all__", ()))


def test_no_module_keeps_state_in_a_global():
    for path in MODULES.values():
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree)), path


AREAS = tuple(f"{area}/" for area in areas())


def keys_of(path: Path) -> set[str]:
    """Metric keys in a file's literals; of one with computed parts the beginning, up to the first of them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            whole = "".join(str(v.value) if isinstance(v, ast.Constant) else "{" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            whole = node.value
        else:
            continue
        if whole.startswith(AREAS) and whole.count("/") == 2 and " " not in whole:
            found.add(whole.partition("{")[0])
    return found


def test_every_metric_key_that_is_written_is_in_the_table_of_metrics():
    keys = {key for package in PACKAGES for path in (ROOT / package).rglob("*.py") for key in keys_of(path)}
    patterns = [pattern for metric in metrics() for pattern in metric.patterns]
    whole = {key for key in keys if metric_of(key)}
    assert len(keys) > 30 and not not_in_one_row(whole)
    assert not {key for key in keys - whole if not any(one.startswith(key) for one in patterns)}

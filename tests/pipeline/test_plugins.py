"""Classes of a user, in a folder outside of the project: an editor, a regularizer and a stage."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.pipeline.forked import forked

EDITOR = '''
"""An editor that writes a share of MEMIT's update."""

from dataclasses import dataclass, replace

from editors.methods.memit import MEMIT


@dataclass(kw_only=True)
class Partly(MEMIT):
    share: float

    def solve(self, preserved, keys, residual):
        delta = super().solve(preserved, keys, residual)
        return replace(delta, left=self.share * delta.left)
'''
REGULARIZER = '''
"""A regularizer that halves every update."""

from dataclasses import dataclass, replace
from typing import ClassVar

from editors.regularizers.base import Regularizer


@dataclass(frozen=True, kw_only=True)
class Half(Regularizer):
    point: ClassVar[str] = "update"

    def finish(self, site, delta, weight, progress):
        return replace(delta, left=0.5 * delta.left)
'''
STAGE = '''
"""A stage that measures the largest entry of the edited matrices."""

from dataclasses import dataclass

from analysis.stages.base import Cadence, Stage


@dataclass(kw_only=True)
class Largest(Stage):
    name: str = "mine"
    cadence: Cadence = Cadence(every=1)

    def prepare(self, model, planned=()):
        """Nothing is needed of the unedited model."""

    def measure(self, model, observation):
        largest = max(float(model.current(site).abs().max()) for site in observation.edited)
        return {"mine/largest/edited": largest}
'''
FILES = {
    "my_plugin/__init__.py": '"""Parts of a user."""\n',
    "my_plugin/editors.py": EDITOR,
    "my_plugin/regularizers.py": REGULARIZER,
    "my_plugin/stages.py": STAGE,
    "mine/editor/mine.yaml": (
        "defaults: [memit, _self_]\n_target_: my_plugin.editors.Partly\nname: mine\n"
        "share: 0.5\npreservation_weight: 10\n"
    ),
    "mine/regularizer/mine.yaml": "mine: {_target_: my_plugin.regularizers.Half}\n",
    "mine/stage/mine.yaml": "mine: {_target_: my_plugin.stages.Largest}\n",
}
CHOICES = ("editor=mine", "regularizer=[mine]", "stage=[norms,mine]", "edits=2", "batch_size=2")


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder of a user with a package and a folder of configuration."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def command(desk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "PYTHONPATH": f"{ROOT}{os.pathsep}{desk}"}
    if any(argument.startswith("launcher=") for argument in arguments):  # it starts processes of its own
        whole = [sys.executable, "-m", "pipeline", *arguments]
        return subprocess.run(
            whole, cwd=desk, env=os.environ | variables, capture_output=True, text=True, check=False
        )
    return forked(arguments, desk, environment=variables, search=[desk])


def run(desk: Path, overrides: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(desk, "--config-dir", str(desk / "mine"), *overrides, *CHOICES, *arguments)


def finished(desk: Path) -> list[Path]:
    return sorted(path.parent for path in (desk / "outputs" / "test").glob("*-*/DONE"))


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_of_a_users_own_classes_finishes(desk: Path, overrides: list[str]):
    """Editor, regularizer and stage; and its model is exported without an import of the plug-in."""
    done = run(desk, overrides, "plugins=[my_plugin]", "keep_weights=true")
    assert done.returncode == 0, done.stderr
    (folder,) = finished(desk)
    values = [row["mine/largest/edited"] for row in rows(folder)]
    assert len(values) == 2 and values[0] != values[1]
    origin = json.loads((folder / "provenance.json").read_text())
    assert list(origin["plugins"]) == ["my_plugin"]
    (desk / "my_plugin" / "__init__.py").write_text("raise ValueError")
    exported = command(desk, "export", str(folder), "out=model")
    assert exported.returncode == 0, exported.stderr


def test_a_run_of_a_sweep_keeps_the_line_that_computes_it_alone(desk: Path, overrides: list[str]):
    """From the folder of the command, with its threads, but without `-m`, launcher and tracker."""
    sweep = ("plugins=[my_plugin]", "seed=0,1", "edits=1", "hydra.mode=MULTIRUN", "launcher.threads=1")
    done = run(desk, overrides, *sweep)
    assert done.returncode == 0, done.stderr
    assert len(finished(desk)) == 2
    for folder in finished(desk):
        line = json.loads((folder / "provenance.json").read_text())["repeat"]
        python, *module, _, own = line.split()[:5]
        assert (python, module, own) == ("python", ["-m", "pipeline"], "mine")
        assert "tracker" not in line and line.endswith(" hydra.mode=RUN launcher.threads=1")
        again = command(desk, *shlex.split(line)[3:], "tracker=none")
        assert again.returncode == 0 and again.stdout == f"outputs/test/{folder.name}\n", again.stderr


def test_without_the_plugin_it_is_refused_and_not_imported(desk: Path, overrides: list[str]):
    (desk / "my_plugin" / "__init__.py").write_text("import os\nos.mkdir('imported')\n")
    done = run(desk, overrides)
    assert done.returncode == 1 and not finished(desk)
    for key, target in (
        ("editor", "my_plugin.editors.Partly"),
        ("regularizer.mine", "my_plugin.regularizers.Half"),
        ("stage.mine", "my_plugin.stages.Largest"),
    ):
        assert f"{key}._target_={target} " in done.stderr
    assert "plugins=[my_plugin]" in done.stderr and "Traceback" not in done.stderr
    assert not (desk / "imported").exists()


def test_a_mistyped_choice_or_key_beside_a_folder_of_ones_own_is_answered(desk: Path, overrides: list[str]):
    done = run(desk, overrides, "plugins=[my_plugin]", "stage=[norms,mien]")
    assert done.returncode == 1 and "did you mean mine? There are activations, " in done.stderr
    done = run(desk, overrides, "plugins=[my_plugin]", "stage.mine.zzz=2")
    assert done.returncode == 1 and "stage.mine.zzz=2: there is no stage.mine.zzz here" in done.stderr


def test_a_plugin_that_is_broken_is_one_sentence(desk: Path, overrides: list[str]):
    (desk / "my_plugin" / "__init__.py").write_text("1 / 0\n")
    done = run(desk, overrides, "plugins=[my_plugin]")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "plugins=[my_plugin] cannot be imported (ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    "launcher", [["hydra.mode=MULTIRUN"], ["launcher=pool", "launcher.jobs=1", "launcher.threads=1"]]
)
def test_a_sweep_takes_plugins_as_well(desk: Path, overrides: list[str], launcher: list[str]):
    done = run(desk, overrides, *launcher, "plugins=[my_plugin]", "editor.share=0.25,0.5")
    assert done.returncode == 0, done.stderr
    assert [len(rows(folder)) for folder in finished(desk)] == [2, 2]
    assert all("mine/largest/edited" in row for folder in finished(desk) for row in rows(folder))


def test_results_of_other_code_of_a_plugin_are_named(desk: Path, overrides: list[str]):
    """By a single run, and by a sweep that recognises its runs without composing them."""
    again = "resume=never computes"
    arguments = ["plugins=[my_plugin]", "stage=[mine]"]
    sweep = [*arguments, "hydra.mode=MULTIRUN", "editor.share=0.25,0.5"]
    assert again not in run(desk, overrides, *sweep).stderr
    assert again not in run(desk, overrides, *sweep).stderr, "nothing has changed"
    assert "already computed; resume" in run(desk, overrides, *arguments, "editor.share=0.25").stderr
    (desk / "my_plugin" / "stages.py").write_text(STAGE.replace(".max()", ".min()"))
    single = run(desk, overrides, *arguments, "editor.share=0.25")
    assert f"computed by other code of my_plugin: {again} it again" in single.stderr
    assert f"2 of them computed by other code of my_plugin: {again} them again" in (
        run(desk, overrides, *sweep).stderr
    )
    assert run(desk, overrides, *sweep, "resume=never").returncode == 0
    assert again not in run(desk, overrides, *sweep).stderr


def test_export_builds_a_model_of_a_plugin_that_it_is_given(desk: Path, overrides: list[str]):
    """The plug-ins that a run names in its stored configuration are not imported."""
    (desk / "my_plugin" / "models.py").write_text(
        "from editors.models.loading import Checkpoint\n\n\nclass Mine(Checkpoint):\n    pass\n"
    )
    assert run(desk, overrides, "plugins=[my_plugin]", "keep_weights=true", "stage=[norms]",
               "model._target_=my_plugin.models.Mine").returncode == 0  # fmt: skip
    (folder,) = finished(desk)
    refused = command(desk, "export", str(folder), "out=model")
    assert refused.returncode == 1 and "model._target_=my_plugin.models.Mine " in refused.stderr
    assert "plugins=[my_plugin]" in refused.stderr
    absent = command(desk, "export", str(folder), "out=model", "plugins=no_such_module")
    assert absent.returncode == 1 and "plugins=[no_such_module] cannot be imported" in absent.stderr
    exported = command(desk, "export", str(folder), "out=model", "plugins=my_plugin")
    assert exported.returncode == 0, exported.stderr

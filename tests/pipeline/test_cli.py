"""The command line as a user meets it: real processes, exit status, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipeline.command_line import COMMANDS, MEASURE, SUGGEST
from pipeline.commands import measure
from pipeline.config.resolvers import register_resolvers
from pipeline.sweeps import search
from tests.paths import ROOT
from tests.pipeline.conftest import CONF
from tests.pipeline.forked import forked


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run_forked(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same in a process that has the libraries; `run` shows what starting one writes."""
    return forked(arguments, folder, environment={"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"})


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("editor=rommel", "editor=rommel: conf/editor has no rommel; did you mean rome?"),
        ("editr=rome", "editr=rome: there is no editr here; did you mean editor?"),
        ("editor.targets.stepz=1", "did you mean editor.targets.steps?"),
        ("layers.edit=[0,99]", "but model=random has 4 blocks (0..3)"),
    ],
)
def test_a_mistake_ends_with_a_sentence_and_status_one(
    overrides: list[str], tmp_path: Path, argument: str, sentence: str
):
    process = run_forked(tmp_path, *overrides, argument)
    assert process.returncode == 1
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr and "Error executing job" not in process.stderr


def test_a_wrong_value_does_not_wait_for_the_import_of_models(overrides: list[str], tmp_path: Path):
    script = (
        "import sys; from pipeline.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: print('transformers.modeling_utils' in sys.modules, end.code)"
    )
    command = [sys.executable, "-c", script, *overrides, "layers.edit=[0,99]"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert process.stdout.startswith("False error: layers.edit=[0, 99]"), process.stderr


def test_the_help_fits_two_screens_and_has_every_group(tmp_path: Path):
    process = run(tmp_path, "--help")
    lines = process.stdout.splitlines()
    assert process.returncode == 0 and len(lines) <= 100
    folders = {path.parent.relative_to(CONF) for path in CONF.glob("*/**/*.yaml")}
    groups = {str(folder) for folder in folders if folder.parts[0] not in ("hparams", "hydra")}
    assert {line.partition(":")[0] for line in lines[lines.index("") :]} >= groups
    assert "hparams" not in process.stdout


def test_tasks_without_their_stage_are_explained(tmp_path: Path):
    process = run(tmp_path, "experiment=real", "stage=[norms]")
    assert process.returncode == 1 and "add downstream to the list" in process.stderr


def test_an_output_folder_that_cannot_be_written_is_named(overrides: list[str], tmp_path: Path):
    (tmp_path / "outputs").write_text("a file, not a folder")
    process = run_forked(tmp_path, *overrides)
    assert process.returncode == 1
    assert "outputs/test" in process.stderr and "cannot be written" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_sweep_continues_after_a_failed_run_and_names_it(overrides: list[str], tmp_path: Path):
    process = run_forked(tmp_path, "-m", *overrides, "edits=50,2", "stage=[norms]")
    assert process.returncode == 1
    assert "edits=50" in process.stderr and "Traceback" not in process.stderr
    marks = sorted(
        path.name for path in (tmp_path / "outputs" / "test").glob("*-*/*") if path.name in ("DONE", "FAILED")
    )
    assert marks == ["DONE", "FAILED"]


@pytest.mark.slow
def test_standard_output_is_the_run_folder_alone(overrides: list[str], tmp_path: Path):
    process = run(tmp_path, *overrides, "tracker=wandb", "stage=[norms]")
    assert process.returncode == 0, process.stderr
    (line,) = process.stdout.splitlines()
    assert (tmp_path / line / "DONE").exists()
    assert list((tmp_path / line / "wandb").glob("offline-run-*"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"outputs", "moments"}, "a run writes nothing beside its outputs"


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_sweeps_as_it_says(path: Path):
    """An override in config.yaml's defaults would take precedence over that of an experiment."""
    search.install()
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", [f"experiment={path.stem}"], return_hydra_config=True)
    sweeper = "Search" if "hydra/sweeper: optuna" in path.read_text() else "Sweep"
    assert OmegaConf.select(composed, "hydra.sweeper._target_") == f"hydra_plugins.normscope.{sweeper}"


def test_the_help_names_every_command():
    """Hydra prints it, and knows options alone."""
    text = OmegaConf.load(CONF / "config.yaml").hydra.help.header
    assert all(f"\n{name} " in text for name in (*COMMANDS, MEASURE, SUGGEST))


def test_a_command_for_a_run_explains_itself(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        measure.overrides(["--help"])
    assert ended.value.code == 0
    assert "BASE EDITED" in capsys.readouterr().out

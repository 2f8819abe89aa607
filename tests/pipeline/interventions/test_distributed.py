"""Two processes that train or edit together find what one finds, with whole weights or sharded ones."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from editors.errors import ConfigError
from pipeline.build import build
from pipeline.config.schema import composed_run
from pipeline.interventions import distributed as processes
from pipeline.interventions.base import Nothing
from tests.paths import ROOT
from tests.pipeline.forked import forked, started
from tests.pipeline.interventions import sharded

SHARDED = "intervention/sharding=fsdp"
Trained = Callable[..., list[dict]]


@pytest.fixture
def trained(overrides: list[str], checkpoint: Path, inputs: Path, tmp_path: Path) -> Trained:
    """Runs the command line in so many processes, in a folder of its own, and gives the rows."""
    model = tmp_path / "without-dropout"  # each process would draw its own
    shutil.copytree(checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    (model / "config.json").write_text(json.dumps(config | none))
    training = [
        "training=tiny", "corpus@training.corpus=file", f"training.corpus.path={inputs / 'text.txt'}",
        "training.cpt.length=16", "steps=4", "stage=[norms]", "model.device=cpu", "launcher.threads=1",
        f"model.path={model}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(count: int, *more: str) -> list[dict]:
        folder = tmp_path / f"{count}-{len(more)}"
        folder.mkdir()
        arguments = [*overrides, *training, *more]
        if count == 1:
            done = forked(arguments, folder, environment=environment)
        elif SHARDED in more:
            done = _forked_ranks(count, arguments, folder, environment)
        else:
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
            done = subprocess.run(
                [sys.executable, *torchrun, "-m", "pipeline", *arguments],
                cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr[-6000:]
        assert done.stdout.count("outputs/test/") == 1, done.stdout  # the first process alone speaks
        (metrics,) = folder.glob("outputs/test/*-*/metrics.jsonl")
        return [json.loads(line) for line in metrics.read_text().splitlines()]

    return run


def _forked_ranks(
    count: int, arguments: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """The processes that torchrun would start, with FSDP allowed on CPUs, from the fork server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    outputs = [folder / f"rank-{rank}" for rank in range(count)]
    ranks = []
    for rank, output in enumerate(outputs):
        output.mkdir()
        variables = environment | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(started(arguments, folder, output, environment=variables, module=sharded.__name__))
    for each in ranks:
        each.join(timeout=300)
    failed = any(each.exitcode != 0 for each in ranks)
    out, err = ("".join((output / name).read_text() for output in outputs) for name in ("out", "err"))
    return subprocess.CompletedProcess(arguments, int(failed), out, err)


def check_equal(one: list[dict], two: list[dict], unit: str = "steps") -> None:
    assert [row[unit] for row in one] == [row[unit] for row in two]
    for a, b in zip(one, two, strict=True):
        keys = {key for key in a if not key.startswith(("time/", "memory/", "unit"))}
        assert keys == {key for key in b if not key.startswith(("time/", "memory/", "unit"))}
        for key in keys:
            assert a[key] == pytest.approx(b[key], rel=2e-5, abs=2e-6), (a[unit], key)


@pytest.mark.slow
@pytest.mark.parametrize("intervention", ["cpt", pytest.param("lora", marks=pytest.mark.long)])
def test_two_processes_train_as_one_does(trained: Trained, intervention: str):
    batch = f"training.{intervention}.batch_size"
    text = [f"intervention={intervention}"]
    if intervention == "lora":
        text += ["training.lora.length=24", "training.adapter.sites=[attn_o,mlp_up]"]
        text += ["training/pairs=world"]
    one = trained(1, *text, f"{batch}=4")
    check_equal(one, trained(2, *text, f"{batch}=2"))
    check_equal(one, trained(2, *text, f"{batch}=2", SHARDED))


@pytest.mark.parametrize("editor", ["memit", "encore"])
def test_two_processes_edit_as_one_does(overrides: list[str], tmp_path: Path, editor: str):
    """Each optimises half of the targets; one of them has one fact less, and none in the last batch."""
    editing = [
        f"editor={editor}",
        "edits=4",
        "batch_size=3",
        "stage=[norms,efficacy]",
        "stage.norms.cadence.every=1",
    ]
    editing += [
        "model.device=cpu",
        "launcher.threads=1",
        "intervention.keep_updates=true",
        "intervention.save_every=3",
    ]
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        done = _forked_ranks(count, [*overrides, *editing], folder, environment)
        assert done.returncode == 0, done.stderr[-6000:]
        (metrics,) = folder.glob("outputs/test/*-*/metrics.jsonl")
        assert sum((folder / f"rank-{rank}" / "out").stat().st_size > 0 for rank in range(count)) == 1
        found.append([json.loads(line) for line in metrics.read_text().splitlines()])
    one, two = found
    check_equal(one, two, "edits")


@pytest.mark.parametrize(
    "editing",
    [["editor=memit", "editor.preservation_weight=10", "batch_size=1"], ["editor=ultraedit", "batch_size=2"]],
)
def test_editing_that_has_nothing_to_share_says_so(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch, editing: list[str]
):
    others = [each for each in overrides if not each.startswith("editor.")]
    plain = composed_run([*others, *editing])
    intervention = build(plain).intervention
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match="intervention=knowledge_edit runs in one process, but 2 were started"
    ):
        processes.join(intervention, cpu=True)


def test_an_intervention_for_one_process_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="intervention=none runs in one process, but 2 were started"):
        processes.join(Nothing(), cpu=True)

"""A run in a process of its own that is killed: after some time, or inside of the n-th write to the disk."""

import hashlib
import os
import signal
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydra import compose, initialize_config_dir

from analysis.stages.base import Cadence, Measurement, Observation, Stage
from editors.models.model import Model
from pipeline import experiment as job
from pipeline.build import Parts
from pipeline.config.resolvers import register_resolvers
from pipeline.launch import launch
from tests.paths import CONF


@dataclass(frozen=True, kw_only=True)
class Digest(Stage):
    """Stage: a number that tells any two models apart, from the bits of all their weights."""

    name: str = "digest"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=1))

    def measure(self, model: Model, observation: Observation) -> Measurement:
        digest = hashlib.sha256()
        for name, value in sorted(model.hf.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return {"norm/digest/model": float(int(digest.hexdigest()[:12], 16))}


def live(overrides: Sequence[str], root: Path, dies_at: int | None = None) -> None:
    """Compute the run, with the digest after every change; die inside of the `dies_at`-th write to the disk.

    How many there were is kept in `<root>/writes`.
    """
    sync, built, writes = os.fsync, job.build, 0

    def fsync(handle: int) -> None:
        nonlocal writes
        writes += 1
        if writes == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    def with_digest(plain: dict) -> Parts:
        parts = built(plain)
        return replace(parts, stages=[*parts.stages, Digest()])

    os.fsync, job.build = fsync, with_digest
    os.chdir(root)  # what is not of a run is kept below the present folder
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides))
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        launch(config, root)
    (root / "writes").write_text(str(writes))

"""The configurations of a sweep's jobs, composed as a sweep does and by Hydra alone."""

from time import process_time

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from pipeline.config.file_cache import keep_files
from tests.benchmarks.measure import Row, against
from tests.benchmarks.workbench import Workbench
from tests.pipeline.sweeping import context_of

JOBS = 20


def composing_jobs(bench: Workbench) -> Row:
    """CPU seconds a job; Hydra alone first, because what a sweep shares stays in the process."""
    GlobalHydra.instance().clear()

    def seconds(shares: bool) -> float:
        context, _ = context_of([])
        if shares:
            keep_files(context)
        begun = process_time()
        for seed in range(JOBS):
            overrides = ["editor=encore", "model=tiny-gpt2", f"seed={seed}"]
            context.config_loader.load_configuration("config", overrides, RunMode.RUN)
        return (process_time() - begun) / JOBS

    plain, fast = seconds(shares=False), seconds(shares=True)
    return against("composing_jobs", fast, plain, f"{fast * 1000:.0f} ms a job of {JOBS}, plain: Hydra alone")

"""Measures the rows that are asked for, writes them into `outputs/bench/bench.json` and prints the table."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tqdm import tqdm

from tests.benchmarks.composing import composing_jobs
from tests.benchmarks.editing import (
    alphaedit_batch100,
    encore_batch100,
    memit_batch100,
    memit_single,
    rome_single,
)
from tests.benchmarks.measure import Row, show, write
from tests.benchmarks.memory import memory_estimate
from tests.benchmarks.norms import norms_all_matrices
from tests.benchmarks.probes import probes_48_layers
from tests.benchmarks.second_moments import statistics_5_layers
from tests.benchmarks.sequence import sequence_with_history, sequence_without_history
from tests.benchmarks.stages import stages_all
from tests.benchmarks.state import state_7b_width
from tests.benchmarks.utilisation import (
    memit_batch_smollm2,
    memit_rounded_smollm2,
    memit_single_smollm2,
    rome_single_smollm2,
)
from tests.benchmarks.workbench import Workbench

ROWS: Mapping[str, Callable[[Workbench], Row]] = MappingProxyType(
    {
        "rome_single": rome_single,
        "memit_single": memit_single,
        "memit_batch100": memit_batch100,
        "alphaedit_batch100": alphaedit_batch100,
        "encore_batch100": encore_batch100,
        "memit_batch_smollm2": memit_batch_smollm2,
        "memit_rounded_smollm2": memit_rounded_smollm2,
        "memit_single_smollm2": memit_single_smollm2,
        "rome_single_smollm2": rome_single_smollm2,
        "statistics_5_layers": statistics_5_layers,
        "sequence_without_history": sequence_without_history,
        "sequence_with_history": sequence_with_history,
        "composing_jobs": composing_jobs,
        "stages_all": stages_all,
        "norms_all_matrices": norms_all_matrices,
        "memory_estimate": memory_estimate,
        "probes_48_layers": probes_48_layers,
        "state_7b_width": state_7b_width,
    }
)


def main() -> None:
    """Every row, or those named on the command line."""
    names = sys.argv[1:] or list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        sys.exit(f"error: there is no row {unknown[0]}; rows are {', '.join(ROWS)}")
    bench = Workbench()
    for name in tqdm(names, unit="row"):  # a row takes minutes: what is measured is kept
        rows = write([ROWS[name](bench)], Path("outputs/bench/bench.json"))
    show(rows)


if __name__ == "__main__":
    main()

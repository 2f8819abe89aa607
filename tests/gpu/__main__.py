"""Runs the parts within their budgets and writes `gpu.json` and `gpu.md` after every row."""

import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.gpu import editing, kernels, measuring, parity
from tests.gpu.bench import Bench, Row
from tests.gpu.results import Result, write

TOTAL = 520.0
"""Seconds of all parts; imports take some before, and a running kernel call some after."""


@dataclass(frozen=True)
class Part:
    """A part and the seconds that it may take."""

    name: str
    budget: float
    rows: Callable[[Bench], Iterator[Row]]


def _at(shape: str, name: str, budget: float, rows: Callable[[Bench, str], Iterator[Row]]) -> Part:
    return Part(f"{name}, {shape}", budget, lambda bench: rows(bench, shape))


PARTS: Sequence[Part] = (
    Part("parity", 60, parity.first),
    _at("llama3-8b", "editing", 120, editing.rows),
    _at("llama3-8b", "kernels", 25, kernels.rows),
    _at("llama3-8b", "second moments", 25, measuring.second_moments),
    _at("llama3-8b", "stages", 70, measuring.stages),
    _at("gpt2-xl", "editing", 80, editing.rows),
    _at("gpt2-xl", "second moments", 10, measuring.second_moments),
    _at("qwen2.5-7b", "editing", 80, editing.rows),
    _at("qwen2.5-7b", "second moments", 20, measuring.second_moments),
    Part("parity of other families", 30, parity.rest),
)
"""The most important first; those of one shape follow one another, so that its model is made once."""


class OutOfTime(BaseException):
    """The budget of a part is spent; no `except Exception` on the way holds it."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block once the seconds are over, as soon as a running kernel call returns."""

    def ring(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(parts: Sequence[Part], folder: Path, total: float = TOTAL) -> list[Result]:
    """Results of the parts; those that could outlast the total are skipped, a failure ends its part only."""
    bench, begun = Bench(), time.perf_counter()
    results: list[Result] = []
    for part in parts:
        result = Result(part.name, part.budget)
        results.append(result)
        if time.perf_counter() - begun + part.budget > total:
            result.status = f"skipped: {part.budget:.0f} s could outlast the total of {total:.0f} s"
        else:
            _run(part, result, bench, lambda: write(results, folder))
        write(results, folder)
        sys.stderr.write(f"{result.part}: {result.status} after {result.seconds:.1f} s\n")
    return results


def _run(part: Part, result: Result, bench: Bench, save: Callable[[], None]) -> None:
    begun = time.perf_counter()
    try:
        with limit(part.budget):
            for row in part.rows(bench):
                result.rows.append(row)
                result.seconds = time.perf_counter() - begun
                save()
        result.status = "done"
    except OutOfTime:
        result.status = f"interrupted: its {part.budget:.0f} s were over"
    except Exception as error:  # the other parts are still worth running
        result.status = f"failed: {type(error).__name__}: {error}"
    result.seconds = time.perf_counter() - begun
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """`out=` is the folder, `only=` names parts by their beginnings, `total=` is in seconds."""
    pairs = (argument.partition("=") for argument in sys.argv[1:])
    options = {key: value for key, _, value in pairs}
    if unknown := options.keys() - {"out", "only", "total"}:
        sys.exit(f"error: {sorted(unknown)[0]} is no option: out=, only= and total= are")
    names = options.get("only", "").split(",")
    parts = [part for part in PARTS if part.name.startswith(tuple(names))]
    folder = Path(options.get("out", "outputs/gpu"))
    results = run(parts, folder, float(options.get("total", TOTAL)))
    sys.stdout.write((folder / "gpu.md").read_text(encoding="utf-8"))
    sys.exit(any(result.status.startswith("failed") for result in results))


if __name__ == "__main__":
    main()

"""Settings for every test: no hub, no progress bars, one W&B mode; and where shapes are checked."""

import gc
import os
from pathlib import Path

# before any library reads them
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TQDM_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes would compile what it computes for tiny matrices

from collections.abc import Callable
from functools import wraps
from typing import Any

import jaxtyping
import pytest

gc.disable()  # until all tests are imported, which leaves no garbage

TESTS = Path(__file__).parent
# the packages whose functions have shapes; whole runs, which take twice as long with the checks, have them in
# make long
WITH_SHAPES = ("editors", "analysis")


_checked = jaxtyping.jaxtyped


@wraps(_checked)
def _checked_if_it_has_shapes(**checker: Any) -> Callable[[Any], Any]:
    """The decorator of jaxtyping's import hook, which costs a third of a test, only where it has shapes."""

    def decorate(part: Any) -> Any:
        written = getattr(part, "__annotations__", {}).values()
        return _checked(**checker)(part) if any("Tensor," in str(each) for each in written) else part

    return decorate


jaxtyping.jaxtyped = _checked_if_it_has_shapes


# objects that are made before garbage is searched: at Python's 700, searches take a twentieth of all tests
BETWEEN_SEARCHES = 50_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups first, then slow tests: one process runs all of either, and would be alone with it at last."""
    items.sort(key=_is_short)


def _is_short(item: pytest.Item) -> tuple[bool, bool]:
    group, slow = (item.get_closest_marker(name) for name in ("xdist_group", "slow"))
    return group is None, slow is None


def pytest_collection_finish() -> None:
    """What the imports left is not searched again: a quarter of a second at every collection of garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(BETWEEN_SEARCHES)
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    folder = item.path.relative_to(TESTS).parts[0]
    is_checked = folder in WITH_SHAPES or item.get_closest_marker("long") is not None
    jaxtyping.config.update("jaxtyping_disable", not is_checked)

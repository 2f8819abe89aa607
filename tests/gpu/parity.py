"""Every editor on tiny models of every family: its contract, the CPU's numbers, and resuming to the bit."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import islice

import torch

from editors.base import Editor
from editors.models.model import Model
from editors.updates import WeightUpdate, sites_of
from tests.editors.cases import EDITORS, bits, perform, same_bits
from tests.gpu.bench import Bench, Row
from tests.tiny import FACTS, FAMILIES, tiny_model

TOLERANCE: Mapping[torch.dtype, float] = {torch.float32: 1e-3, torch.bfloat16: 0.3}
"""Largest difference of an update, relative to its norm. On a CPU, attention in another order gives 4e-6
and 0.2: in bfloat16 the steps of Adam multiply what a product rounds."""


def first(bench: Bench) -> Iterator[Row]:
    """GPT-2 and Llama, and resuming."""
    for family in islice(FAMILIES, 0, 4, 3):
        yield from _family(bench, family)
        if bench.scale.families == 1:
            break
    yield _resumed(bench)
    if find_spec("bitsandbytes") is not None:
        yield _four_bits(bench)


def rest(bench: Bench) -> Iterator[Row]:
    """The other families, if there is time."""
    others = [family for family in FAMILIES if family not in ("gpt2", "llama")]
    for family in others[: bench.scale.families - 1]:
        yield from _family(bench, family)


def _family(bench: Bench, family: str) -> Iterator[Row]:
    for dtype, tolerance in TOLERANCE.items():
        gaps: dict[str, float] = {}
        broken: list[str] = []
        for name in EDITORS:
            try:
                gaps[name] = _gap(family, name, dtype, bench.device)
            except Exception as error:  # the others are still worth running
                broken.append(f"{name}: {type(error).__name__} {str(error).splitlines()[:1]}")
        broken += [f"{name}: {gap:.1e}" for name, gap in gaps.items() if not gap <= tolerance]
        worst = max(gaps, key=lambda name: gaps[name], default="none")
        yield {
            "what": f"{len(EDITORS)} editors, {family}, {str(dtype).removeprefix('torch.')}",
            "passed": not broken,
            "largest_difference": gaps.get(worst, float("nan")),
            "of": worst,
            "tolerance": tolerance,
            "broken": "; ".join(broken),
        }


def _model(family: str, dtype: torch.dtype, device: torch.device) -> Model:
    model = tiny_model(family, double=False)
    model.hf.to(device=device, dtype=dtype)
    return model


def _gap(family: str, name: str, dtype: torch.dtype, device: torch.device) -> float:
    """Largest relative difference between the updates of device and CPU; the contract is checked on the way.

    Raises:
        AssertionError: if an edit changes the model, or its application other matrices than it names.
    """
    updates: list[WeightUpdate] = []
    for place in (torch.device("cpu"), device):
        model = _model(family, dtype, place)
        editor = EDITORS[name](model)
        editor.prepare(model)
        before = bits(model)
        edit = editor.edit(model, FACTS[:1])
        assert same_bits(model, before), "an edit changed the model before it was applied"
        model.apply(edit.update)
        editor.commit(model, FACTS[:1], edit)
        changed = [key for key, value in model.hf.state_dict().items() if not torch.equal(value, before[key])]
        assert len(changed) == len(editor.sites), f"{changed} changed, not {list(map(str, editor.sites))}"
        updates.append(edit.update)
    return _largest(*updates)


def _largest(here: WeightUpdate, there: WeightUpdate) -> float:
    """Largest relative difference between two updates of the same matrices."""
    gaps = []
    for site, delta in here.items():
        expected, found = (one.dense().double().cpu() for one in (delta, there[site]))
        gaps.append(float((found - expected).norm() / expected.norm()))
    return max(gaps)


def _four_bits(bench: Bench) -> Row:
    """Whether matrices in four bits, and an edit of the model that holds them, are those of the CPU."""
    updates, frozen = [], []
    for place in (torch.device("cpu"), bench.device):
        model = tiny_model("llama", double=False)
        editor = EDITORS["memit"](model)
        model.freeze(editor.sites, place)
        model.hf.to(place)
        editor.prepare(model)
        updates.append(editor.edit(model, FACTS[:1]).update)
        sites = sites_of(range(model.depth), model.sites)
        frozen.append({site: model.weight(*site).cpu() for site in sites if model.is_frozen(site)})
    different = [str(site) for site, matrix in frozen[0].items() if not torch.equal(matrix, frozen[1][site])]
    gap = _largest(*updates)
    return {
        "what": "memit with matrices in four bits, llama, float32",
        "passed": not different and gap <= TOLERANCE[torch.float32],
        "largest_difference": gap,
        "tolerance": TOLERANCE[torch.float32],
        "broken": ", ".join(different),
    }


def _resumed(bench: Bench) -> Row:
    """Whether an editor restored from its state goes on with the same bits."""
    different = [name for name in EDITORS if not _resumes(name, bench.device)]
    return {
        "what": f"resuming of {len(EDITORS)} editors, gpt2, float32, to the bit",
        "passed": not different,
        "broken": ", ".join(different),
    }


def _resumes(name: str, device: torch.device) -> bool:
    model = _model("gpt2", torch.float32, device)

    def prepared() -> Editor:
        editor = EDITORS[name](model)
        editor.prepare(model)
        return editor

    first = prepared()
    twin = prepared()
    perform(model, first, FACTS[:1], FACTS[1:2])
    twin.load_state_dict({key: value.cpu().clone() for key, value in first.state_dict().items()})
    one, other = (editor.edit(model, FACTS[2:]).update for editor in (first, twin))
    return all(torch.equal(one[site].dense(), other[site].dense()) for site in one)

"""What an edit costs by each editor: `python -m tests.benchmarks.cost`.

Published steps, regularizers as in `conf/editor`, a batch of ten where a method has batches.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from editors.base import Editor
from editors.data import Fact
from editors.locate.contexts import GivenContexts, Groups
from editors.locate.targets import TargetOptimizer
from editors.methods.alphaedit import AlphaEdit
from editors.methods.betaedit import BetaEdit
from editors.methods.crispedit.curvature import Curvature, GivenCurvature
from editors.methods.crispedit.editor import CrispEdit
from editors.methods.emmet import EMMET
from editors.methods.finetune import FineTuning
from editors.methods.lora import LoRAEditing
from editors.methods.lti import DistilledTargets
from editors.methods.memit import MEMIT
from editors.methods.mend.editor import MEND
from editors.methods.mend.files import shapes_of
from editors.methods.mend.network import Hypernetwork
from editors.methods.mose import OrthogonalEditing
from editors.methods.pmet import PMET, JointTargets
from editors.methods.rome import ROME
from editors.methods.ultraedit import UltraEdit
from editors.models.adapters import LoRA
from editors.models.gradients import TokenGradients
from editors.models.model import Model
from editors.regularizers.history import History
from editors.regularizers.mpes import MPES
from editors.regularizers.norm_constraint import NormConstraint
from editors.regularizers.prune import Prune
from editors.regularizers.rect import Rect
from editors.updates import sites_of
from tests.benchmarks.measure import timed
from tests.benchmarks.workbench import LAYERS, Workbench, facts

BATCH = 10
TARGETS = TargetOptimizer(max_norm_ratio=0.75)
DISTILLED = DistilledTargets(steps=25, max_norm_ratio=1.2, middle_layer=9)


def _located(bench: Workbench, name: str, groups: Groups, targets: TargetOptimizer, *layers: int) -> dict:
    contexts = GivenContexts(templates=groups)
    shared = {"name": name, "contexts": contexts, "moments": bench.moments, "targets": targets}
    return shared | {"layers": list(layers) or LAYERS}


def _rome(bench: Workbench, mode: str) -> Editor:
    targets = TargetOptimizer(reference="mlp")
    return ROME(**_located(bench, mode, bench.rome_contexts, targets, 5), key_mode=mode)


def _memit(bench: Workbench, name: str, targets: TargetOptimizer = TARGETS, **rules: object) -> Editor:
    shared = _located(bench, name, bench.memit_contexts, targets)
    return MEMIT(**shared, preservation_weight=100.0, regularizers=rules)


def _encore(bench: Workbench) -> Editor:
    rules = {"history": History(), "mpes": MPES(hits=4), "norm_constraint": NormConstraint(weight=10.0)}
    return _memit(bench, "encore", **rules)


def _emmet(bench: Workbench) -> Editor:
    return EMMET(**_located(bench, "emmet", bench.memit_contexts, TARGETS, 7), preservation_weight=100.0)


def _pmet(bench: Workbench) -> Editor:
    targets = JointTargets(steps=30, learning_rate=0.2, kl_weight=1.0, max_norm_ratio=0.75)
    return PMET(**_located(bench, "pmet", bench.memit_contexts, targets), preservation_weight=100.0)


def _alphaedit(bench: Workbench, targets: TargetOptimizer = TARGETS) -> Editor:
    shared = _located(bench, "alphaedit", bench.memit_contexts, targets)
    return AlphaEdit(**shared, threshold=0.5, regularizers={"history": History()})


def _betaedit(bench: Workbench) -> Editor:
    shared = _located(bench, "betaedit", bench.memit_contexts, TARGETS)
    return BetaEdit(**shared, threshold=0.5, preservation_weight=100.0, regularizers={"history": History()})


def _ft(bench: Workbench, **changes: object) -> Editor:
    return FineTuning(**({"name": "ft", "layers": [1]} | changes))


def _ultraedit(bench: Workbench, **changes: object) -> Editor:
    given = {"name": "ultraedit", "layers": [8, 9, 10], "matrices": {"mlp_down": [8, 9, 10]}}
    return UltraEdit(**(given | changes))


def _lora(bench: Workbench) -> Editor:
    sites, layers = ("attn_q", "attn_k", "attn_v"), range(bench.model.depth)
    adapters = LoRA(rank=8, alpha=32.0, dropout=0.1, sites=sites, layers=layers)
    return LoRAEditing(name="lora", adapters=adapters, steps=30, learning_rate=5e-3)


def _crispedit(bench: Workbench) -> Editor:
    """Five blocks, as published; a curvature of rank 500, which costs the same as another."""
    layers = [6, 7, 8, 9, 10]
    sites = sites_of(layers, ["mlp_down"])
    text = {site: Curvature.zero(bench.model.current(site).shape) for site in sites}
    for site, curvature in text.items():
        out, width = bench.model.current(site).shape
        curvature.add(TokenGradients(torch.randn(500, width), torch.randn(500, out)))
    return CrispEdit(
        name="crispedit",
        layers=layers,
        curvature=GivenCurvature(curvatures=text),
        facts_at_once=32,
        shuffle_seed=0,
    )


def _mend(bench: Workbench) -> Editor:
    """With an untrained hypernetwork of the published rank, which costs the same as a trained one."""
    made = MEND(name="mend", layers=[9, 10, 11])
    network = Hypernetwork(shapes_of(bench.model, made.sites), made.design)
    gradients = {
        site: TokenGradients(torch.randn(9, wide), torch.randn(9, out))
        for site, (wide, out) in network.shapes.items()
    }
    network.observe(gradients)
    return replace(made, hypernetwork=network)


EDITORS: Mapping[str, tuple[int, Callable[[Workbench], Editor]]] = MappingProxyType(
    {
        "rome": (1, lambda bench: _rome(bench, "rome")),
        "r_rome": (1, lambda bench: _rome(bench, "r_rome")),
        "memit": (BATCH, lambda bench: _memit(bench, "memit")),
        "encore": (BATCH, _encore),
        "rect": (BATCH, lambda bench: _memit(bench, "rect", history=History(), rect=Rect())),
        "prune": (BATCH, lambda bench: _memit(bench, "prune", history=History(), prune=Prune(every=BATCH))),
        "emmet": (BATCH, _emmet),
        "pmet": (BATCH, _pmet),
        "alphaedit": (BATCH, _alphaedit),
        "betaedit": (BATCH, _betaedit),
        "lti": (BATCH, lambda bench: _memit(bench, "lti", DISTILLED, history=History())),
        "alphaedit_lti": (BATCH, lambda bench: _alphaedit(bench, DISTILLED)),
        "ft": (BATCH, _ft),
        "ft_l": (BATCH, lambda bench: _ft(bench, layers=[0], norm_bound=5e-4)),
        "ft_m": (BATCH, lambda bench: _ft(bench, objective="teacher_forced")),
        "locft": (BATCH, lambda bench: _ft(bench, objective="teacher_forced", ends=True, shuffle_seed=0)),
        "crispedit": (BATCH, _crispedit),
        "ultraedit": (BATCH, _ultraedit),
        "mose": (1, lambda bench: OrthogonalEditing(name="mose", layers=[4, 5, 6])),
        "stableedit": (BATCH, lambda bench: _ultraedit(bench, predicting=True, whitening=True)),
        "mend": (BATCH, _mend),
        "lora": (BATCH, _lora),
    }
)
"""Facts in a batch, and how the editor is made; as the presets of `conf/editor`."""


def main() -> None:
    """Print the seconds per fact of every editor, or those named: edit, application and commit together."""
    bench, table = Workbench(), Table("editor", "facts in a batch", "s per fact")
    chosen = {name: EDITORS[name] for name in sys.argv[1:]} or EDITORS
    for name, (batch, make) in tqdm(chosen.items()):
        table.add_row(name, str(batch), f"{_seconds(bench, batch, make(bench)):.2f}")
    Console().print(table)


def _seconds(bench: Workbench, batch: int, editor: Editor) -> float:
    """Of the second of two batches, on the unedited weights."""
    model, every = bench.model, facts(2 * batch)
    editor.prepare(model, every)
    before = model.snapshot(editor.sites)
    for chosen in (every[:batch], every[batch:]):
        model.restore(before)
        seconds = timed(lambda facts=chosen: _edit(model, editor, facts))
    model.restore(before)
    return seconds / batch


def _edit(model: Model, editor: Editor, chosen: Sequence[Fact]) -> None:
    edit = editor.edit(model, chosen)
    model.apply(edit.update)
    editor.commit(model, chosen, edit)


if __name__ == "__main__":
    main()

"""One row for each editor, made for a tiny model, and what the tests of editors share."""

from collections.abc import Callable, Sequence

import torch

from editors.base import Editor
from editors.data import Fact
from editors.locate.base import LocateThenEdit
from editors.methods.alphaedit import AlphaEdit
from editors.methods.betaedit import BetaEdit
from editors.methods.crispedit.curvature import Curvature, GivenCurvature, add_tokens
from editors.methods.crispedit.editor import CrispEdit
from editors.methods.emmet import EMMET
from editors.methods.finetune import FineTuning
from editors.methods.lora import LoRAEditing
from editors.methods.lti import DistilledTargets
from editors.methods.memit import MEMIT
from editors.methods.mend.editor import MEND
from editors.methods.mend.files import shapes_of
from editors.methods.mend.network import Design, Hypernetwork
from editors.methods.mose import OrthogonalEditing
from editors.methods.pmet import PMET, JointTargets
from editors.methods.rome import ROME
from editors.methods.ultraedit import UltraEdit
from editors.models.adapters import LoRA
from editors.models.gradients import read_targets
from editors.models.model import Model
from editors.models.tokenization import tokenize
from editors.regularizers.history import History
from editors.regularizers.mpes import MPES
from editors.regularizers.norm_constraint import NormConstraint
from editors.updates import Site, sites_of
from tests.tiny import FACTS, TEXT, contexts, moments, optimizer

SHORT = {"steps": 6, "learning_rate": 0.2, "decay": 0.01, "max_norm_ratio": 2.0}


def _shared(model: Model, **changes: object) -> dict[str, object]:
    return {"layers": [0, 1], "contexts": contexts(), "moments": moments(model)} | changes


def make_rome(model: Model, **changes: object) -> LocateThenEdit:
    given = {"name": "rome", "layers": [1], "targets": optimizer(reference="mlp")}
    return ROME(**(_shared(model) | given | changes))


def make_memit(model: Model, **changes: object) -> LocateThenEdit:
    given = {"name": "memit", "targets": optimizer(), "preservation_weight": 0.5}
    return MEMIT(**(_shared(model) | given | changes))


def make_encore(model: Model) -> LocateThenEdit:
    chosen = {"history": History(), "mpes": MPES(hits=2), "norm_constraint": NormConstraint(weight=0.5)}
    return make_memit(model, name="encore", regularizers=chosen)


def make_emmet(model: Model, **changes: object) -> LocateThenEdit:
    given = {"name": "emmet", "layers": [1], "targets": optimizer(), "preservation_weight": 5.0}
    return EMMET(**(_shared(model) | given | changes))


def make_pmet(model: Model, **changes: object) -> LocateThenEdit:
    given = {"name": "pmet", "targets": JointTargets(**SHORT), "preservation_weight": 0.5}
    return PMET(**(_shared(model) | given | changes))


def make_alphaedit(model: Model, **changes: object) -> LocateThenEdit:
    """The tiny models' moments have eigenvalues from 0.3 to 2.2: about a third of the space is null."""
    given = {"name": "alphaedit", "targets": optimizer(), "threshold": 0.7, "ridge": 0.5}
    return AlphaEdit(**(_shared(model, regularizers={"history": History()}) | given | changes))


def make_betaedit(model: Model, **changes: object) -> LocateThenEdit:
    """As above; a new null space after every second fact."""
    given = {"name": "betaedit", "targets": optimizer(), "threshold": 0.7, "ridge": 0.5, "refresh": 2}
    return BetaEdit(**(_shared(model, regularizers={"history": History()}) | given | changes))


def distilled(**changes: float) -> DistilledTargets:
    """The new object weighs more than usual: what a random teacher says is noise."""
    return DistilledTargets(**(SHORT | {"middle_layer": 2, "nll_weight": 1.0} | changes))


def make_lti(model: Model, **changes: object) -> LocateThenEdit:
    return make_memit(model, **({"name": "lti", "targets": distilled()} | changes))


def make_alphaedit_lti(model: Model, **changes: object) -> LocateThenEdit:
    return make_alphaedit(model, **({"name": "alphaedit_lti", "targets": distilled()} | changes))


def make_finetuning(model: Model, **changes: object) -> FineTuning:
    return FineTuning(**({"name": "ft", "layers": [1], "steps": 4} | changes))


def make_locft(model: Model, **changes: object) -> FineTuning:
    """Without its random order, which other orders of the same facts would not repeat."""
    return make_finetuning(
        model, **({"name": "locft", "objective": "teacher_forced", "ends": True} | changes)
    )


def make_lora(model: Model, adapters: dict[str, object] | None = None, **changes: object) -> LoRAEditing:
    """Without dropout, by whose masks the order of facts would matter."""
    given = {"rank": 2, "alpha": 8.0, "sites": ["attn_o", "mlp_down"], "layers": [2, 1]}
    chosen = LoRA(**(given | (adapters or {})))
    return LoRAEditing(**({"name": "lora", "adapters": chosen, "steps": 6} | changes))


def make_ultraedit(model: Model, **changes: object) -> UltraEdit:
    given = {"name": "ultraedit", "layers": [1, 2], "matrices": {"mlp_down": [1, 2], "mlp_up": [1]}}
    return UltraEdit(**(given | {"learning_rate": 1e-4} | changes))


def make_stableedit(model: Model, **changes: object) -> UltraEdit:
    given = {"name": "stableedit", "whitening": True, "predicting": True}
    return make_ultraedit(model, **(given | changes))


def make_mose(model: Model, **changes: object) -> OrthogonalEditing:
    """A bound as wide as the tiny model needs."""
    given = {"name": "mose", "layers": [1, 2], "steps": 4, "bound": 1e-2, "facts_at_once": 8}
    return OrthogonalEditing(**(given | changes))


def curvatures(model: Model, sites: Sequence[Site]) -> dict[Site, Curvature]:
    """That of the tiny text, on a model of the same weights."""
    found = {site: Curvature.zero(model.current(site).shape) for site in sites}
    add_tokens(model, [tokenize(model.tokenizer, sentence).ids for sentence in TEXT], found)
    return found


def make_crispedit(model: Model, **changes: object) -> CrispEdit:
    given = {"name": "crispedit", "layers": [1, 2], "steps": 4, "energy": 0.7} | changes
    sites = sites_of(given["layers"], ["mlp_down"])
    return CrispEdit(**({"curvature": GivenCurvature(curvatures=curvatures(model, sites))} | given))


def make_hypernetwork(model: Model, sites: Sequence[Site], **design: object) -> Hypernetwork:
    """A random one, down the gradient, that knows mean and deviation of the tiny model's facts."""
    given = {"rank": 4, "step_size": -1e-4}
    network = Hypernetwork(shapes_of(model, sites), Design(**(given | design)))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.networks():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    network.to(model.device)
    evaluation = read_targets(model, FACTS, "teacher_forced", min(s.layer for s in sites)).evaluate(sites)
    network.observe(evaluation.gradients(evaluation.losses.sum()))
    return network.eval()


def make_mend(model: Model, **changes: object) -> MEND:
    given = {"name": "mend", "layers": [2, 3], "matrices": ["mlp_up", "mlp_down"]} | changes
    network = make_hypernetwork(model, MEND(**given).sites)
    return MEND(**({"hypernetwork": network} | given))


LOCATING: dict[str, Callable[..., LocateThenEdit]] = {
    "rome": make_rome,
    "r_rome": lambda model, **changes: make_rome(model, name="r_rome", key_mode="r_rome", **changes),
    "p_rome": lambda model, **changes: make_rome(model, name="p_rome", key_mode="p_rome", **changes),
    "pr44": lambda model, **changes: make_rome(model, name="pr44", key_mode="pr44", **changes),
    "memit": make_memit,
    "emmet": make_emmet,
    "emmet_exact": lambda model, **changes: make_emmet(model, ridge=0.0, **changes),
    "pmet": make_pmet,
    "alphaedit": make_alphaedit,
    "betaedit": make_betaedit,
    "lti": make_lti,
    "alphaedit_lti": make_alphaedit_lti,
}
"""Editors that locate; their constructors take changes."""

EDITORS: dict[str, Callable[[Model], Editor]] = {
    **LOCATING,
    "encore": make_encore,
    "ft": make_finetuning,
    "ft_l": lambda model: make_finetuning(model, name="ft_l", norm_bound=1.5e-3),
    "ft_m": lambda model: make_finetuning(model, name="ft_m", objective="teacher_forced"),
    "locft": make_locft,
    "lora": make_lora,
    "ultraedit": make_ultraedit,
    "stableedit": make_stableedit,
    "mend": make_mend,
    "mose": make_mose,
    "crispedit": make_crispedit,
}


def bits(model: Model) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers."""
    return {key: value.clone() for key, value in model.hf.state_dict().items()}


def same_bits(model: Model, before: dict[str, torch.Tensor]) -> bool:
    """Whether every entry is what it was; NaN is equal to NaN."""
    now = model.hf.state_dict()
    return all(torch.equal(now[key].nan_to_num(7.0), value.nan_to_num(7.0)) for key, value in before.items())


def chance(model: Model, fact: Fact) -> float:
    """Mean log-probability of the new object's tokens after the edited prompt."""
    ids, mask = model.encode([f"{fact.statement} {fact.target_new}"])
    prompt = len(model.encode([fact.statement])[0][0])
    said = model.logits(model.hidden(ids, mask))[0].log_softmax(dim=-1)
    return float(said[prompt - 1 : -1].gather(1, ids[0, prompt:, None]).mean())


def perform(model: Model, editor: Editor, *batches: Sequence[Fact]) -> None:
    """Edit, apply and commit one batch after another."""
    for batch in batches:
        edit = editor.edit(model, batch)
        model.apply(edit.update)
        editor.commit(model, batch, edit)

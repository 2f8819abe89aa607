"""Records a folder of cases with the plain reference path, so that the comparison runs everywhere.

    python -m tests.parity.record tests/parity/recorded

The models are random and tiny; the outputs come from `tests.plain`, which shares no solver, no replay and
no batching with the editors. Those of `betaedit`, `crispedit`, `locft`, `mose` and `stableedit` come from the
published code (lbq8942/BetaEdit at 740e323, zarifikram/CrispEdit at 1d9f833, ICT-STAR/LocFT at 51db785,
famoustourist/MOSE at 783b863, MINE-USTC/StableEdit at 6ea8eae), run on the same models and inputs: LocFT and
CrispEdit with the facts in their order; CrispEdit and MOSE with their losses in the precision of the model;
CrispEdit with a new Adam for every edit; StableEdit without its warm-up, with the sum of the losses, and with
its ε only where it keeps a deviation from zero. This command leaves them as they are.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from editors.data import Fact
from editors.locate.targets import TargetOptimizer
from editors.models.model import Model
from tests import plain
from tests.tiny import FACTS, TEMPLATES, Kind, moments, tiny_model

FLAVOURS: tuple[tuple[str, Kind], ...] = (("gpt2", "plain"), ("llama", "bos"))
PUBLISHED = {
    "v_num_grad_steps": 5,
    "v_lr": 0.2,
    "v_weight_decay": 0.05,
    "clamp_norm_factor": 2.0,
    "kl_factor": 0.0625,
    "mom2_adjustment": True,
    "mom2_update_weight": 2.0,
}
TOLERANCES = {
    "float64": {"single": 1e-9, "batch": 1e-9, "sequential": 1e-9},
    "float32": {"single": 1e-3, "batch": 1e-4, "sequential": 1e-3},
}


def main(root: Path) -> None:
    for family, kind in FLAVOURS:
        folder = root / family
        model = tiny_model(family, kind, double=False)
        _write_inputs(folder, model)
        for precision in ("float64", "float32"):
            exact = tiny_model(family, kind, double=False)
            exact.hf.to(getattr(torch, precision))
            _record_rome(folder, exact, precision)
            _record_memit(folder, exact, precision)


def _write_inputs(folder: Path, model: Model) -> None:
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    _dump(folder / "tolerances.json", TOLERANCES)
    _dump(folder / "inputs" / "requests.json", [_request(fact) for fact in FACTS])
    _dump(folder / "inputs" / "context_templates.json", {"rome": sum(TEMPLATES, ()), "memit": TEMPLATES})
    known = {
        _site(model).format(layer): m.float() for layer, m in moments(model).matrices.items() if layer < 2
    }
    save_file(known, folder / "inputs" / "covariance.safetensors")


def _record_rome(folder: Path, model: Model, precision: str) -> None:
    templates = (sum(TEMPLATES, ()),)
    settings, moment = _settings("mlp"), moments(model).matrices[1].float()
    tensors: dict[str, Tensor] = {}
    for i, fact in enumerate(FACTS):
        delta = plain.rome(model, fact, templates, 1, moment, settings)
        left, scale, right = torch.linalg.svd(delta)
        tensors |= {
            f"{i:02d}.u": right[0].contiguous(),
            f"{i:02d}.right_vector": (left[:, 0] * scale[0]).contiguous(),
            f"{i:02d}.v_star": plain.target(model, fact, templates, 1, settings),
        }
    _case(folder / "rome" / f"{precision}_single", model, "rome", precision, [1], tensors)


def _record_memit(folder: Path, model: Model, precision: str) -> None:
    settings, layers = _settings("block"), [0, 1]
    known = moments(model).matrices
    kept = {layer: PUBLISHED["mom2_update_weight"] * known[layer].float() for layer in layers}
    deltas = plain.memit(model, FACTS, TEMPLATES, layers, kept, settings)
    transposed = model.hf.config.model_type == "gpt2"  # Conv1D keeps (in, out)
    tensors = {
        f"delta.{_site(model).format(layer)}.weight": (delta.T if transposed else delta).contiguous()
        for layer, delta in deltas.items()
    }
    tensors["zs"] = torch.stack([plain.target(model, fact, TEMPLATES, 1, settings) for fact in FACTS])
    _case(folder / "memit" / f"{precision}_batch", model, "memit", precision, layers, tensors)


def _case(path: Path, model: Model, method: str, precision: str, layers: list[int], tensors: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path.with_suffix(".safetensors"))
    info = {
        "method": method,
        "precision": precision,
        "hparams": PUBLISHED | {"layers": layers, "rewrite_module_tmp": _site(model)},
        "context_templates": method,
        "request_indices": list(range(len(FACTS))),
    }
    _dump(path.with_suffix(".json"), info)


def _settings(reference: str) -> TargetOptimizer:
    return TargetOptimizer(
        steps=PUBLISHED["v_num_grad_steps"],
        learning_rate=PUBLISHED["v_lr"],
        decay=PUBLISHED["v_weight_decay"],
        max_norm_ratio=PUBLISHED["clamp_norm_factor"],
        kl_weight=PUBLISHED["kl_factor"],
        reference=reference,
    )


def _site(model: Model) -> str:
    return f"{model.family.blocks}.{{}}.{model.family.sites['mlp_down']}"


def _request(fact: Fact) -> dict:
    return {
        "case_id": fact.id,
        "prompt": fact.prompt,
        "subject": fact.subject,
        "target_new": {"str": fact.target_new},
        "target_true": {"str": fact.target_true},
    }


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

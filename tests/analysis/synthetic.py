"""Numbers as a run logs them; norms, growth terms and shares agree with one another as in real ones."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SITES = ("attn_q", "attn_k", "attn_v", "attn_o", "mlp_up", "mlp_down")
ROWS = ("norm_growth", "probe_collapse", "activation_shift", "ability_loss")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What an editor does to the synthetic model by its last edit."""

    ratio: float
    """Norm of the edited matrix over its unedited norm."""
    square: float
    """Share of the growth that is ‖Δ‖²."""
    fall: float
    """How far scores have fallen."""
    alarms: Mapping[str, float]
    """When alarms fire, as a share of the edits."""


EDITORS = {
    "rome": Damage(
        ratio=40.0, square=0.7, fall=0.9,
        alarms={"norm_growth": 0.2, "probe_collapse": 0.5, "ability_loss": 0.7},
    ),
    "memit": Damage(ratio=110.0, square=0.4, fall=0.7, alarms={"norm_growth": 0.15, "activation_shift": 0.8}),
    "encore": Damage(ratio=1.16, square=0.8, fall=0.08, alarms={}),
}  # fmt: skip


def synthetic_lines(
    editor: str, *, seed: int, edits: int, every: int, blocks: int, edited: tuple[int, ...], trained: bool
) -> list[dict[str, float]]:
    """The rows of `metrics.jsonl`; growth terms at every `every`-th step, `trained` moves attention too."""
    noise, damage = np.random.default_rng([seed, len(editor)]), EDITORS[editor]
    done = np.arange(edits + 1)
    ratio = damage.ratio ** ((done / edits) ** noise.uniform(0.9, 1.2))
    spectral = {0, edits, *(10**power for power in range(5))}
    fired = {name: round(edits * share * noise.uniform(0.8, 1.2)) for name, share in damage.alarms.items()}
    lines = []
    for step in range(edits + 1):
        line: dict[str, float] = {"step": step, "edits": step, "time/step/seconds": 0.1}
        line |= _norms(ratio, step, damage.square, step % every == 0, step % 10 == 0, blocks, edited, trained)
        fallen = damage.fall * (step / edits) ** 1.3
        if step % 10 == 0:
            line |= _scores(fallen, noise, step) | _activations(fallen, noise, blocks, edited)
            line |= _probes(fallen, noise, blocks, step)
        if step in (0, edits):
            line |= _traced(fallen, blocks)
        if step in spectral:
            line |= _spectra(ratio[step], blocks, edited, step)
        line |= {f"alarm/{name}/at": at for name, at in fired.items() if at == step}
        lines.append({key: float(value) if "/" in key else value for key, value in line.items()})
    return lines


def _start(site: str, block: int) -> float:
    """Norm of a matrix at the start."""
    return 12 + 3 * SITES.index(site) + block


def _norms(
    ratio: np.ndarray, step: int, square: float, terms: bool, whole: bool, blocks: int,
    edited: tuple[int, ...], trained: bool,
) -> dict[str, float]:  # fmt: skip
    moved = {(site, block) for site in (SITES if trained else ("mlp_down",)) for block in edited}
    line = {"norm/frobenius_ratio/edited": ratio[step]}
    if whole:
        line |= {f"norm/frobenius_ratio/{where}": 1.0 for where in ("static", "attention")}
        line["norm/frobenius_ratio/mlp"] = 1 + 0.3 * (ratio[step] - 1)
        line["norm/frobenius_ratio/attention"] += 0.2 * (ratio[step] - 1) * trained
    for site, block in [(site, block) for site in SITES for block in range(blocks)]:
        start, where = _start(site, block), f"{site}.{block:02d}"
        grown = ratio[step] if (site, block) in moved else 1.0
        if whole or (site, block) in moved:
            line[f"norm/frobenius/{where}"] = start * grown
            line[f"norm/frobenius_ratio/{where}"] = grown
        if step and terms and (site, block) in moved:
            growth = start**2 * (ratio[step] ** 2 - ratio[step - 1] ** 2)
            line[f"norm/growth_cross/{where}"] = growth * (1 - square)
            line[f"norm/growth_square/{where}"] = growth * square
            line[f"norm/delta/{where}"] = (growth * square) ** 0.5
    return line


def _spectra(ratio: float, blocks: int, edited: tuple[int, ...], step: int) -> dict[str, float]:
    line: dict[str, float] = {}
    for block in range(blocks) if step == 0 else edited:
        grown = ratio if block in edited else 1.0
        for place in range(1, 6):
            line[f"norm/singular_{place}/mlp_down.{block:02d}"] = (10 - place) * (1 + (grown - 1) / place**2)
    return line


def _near(noise: np.random.Generator, value: float) -> float:
    return float(np.clip(value + noise.normal(scale=0.02), 0, 1))


def _scores(fallen: float, noise: np.random.Generator, step: int) -> dict[str, float]:
    line = {"edit/known/unedited": _near(noise, 0.98 - fallen)}
    best = {"sentiment": 0.95, "qa": 0.9, "choice": 0.4}
    tasks = {task: _near(noise, value - 0.5 * fallen) for task, value in best.items()}
    line |= {f"downstream/{task}/acc": value for task, value in tasks.items()}
    line |= {f"downstream/{task}/stderr": 0.01 for task in tasks}
    line["downstream/mean/acc"] = sum(tasks.values()) / len(tasks)
    line["text/perplexity/held_out"] = 12 * np.exp(3 * fallen)
    line["generation/entropy/mean"] = 6 - 3 * fallen
    if step:
        starts = {"rewrite": (0.99, 0.6), "paraphrase": (0.95, 0.6), "neighbour": (0.93, 0.3)}
        seen = {kind: _near(noise, top - share * fallen) for kind, (top, share) in starts.items()}
        line |= {f"edit/success/seen.{kind}": value for kind, value in seen.items()}
        line["edit/score/seen"] = 3 / sum(1 / max(value, 1e-6) for value in seen.values())
        line["edit/success/first50.rewrite"] = _near(noise, 0.99 - 0.8 * fallen)
        line["edit/known/other"] = _near(noise, 0.7 - fallen)
        edges = [edge for edge in (10, 20, 50, 100, 200, 500, 1000) if edge < 2.5 * step]
        line |= {
            f"edit/retention/{edge:04d}": _near(noise, 0.99 - fallen * min(edge / step, 1)) for edge in edges
        }
    return line


def _activations(
    fallen: float, noise: np.random.Generator, blocks: int, edited: tuple[int, ...]
) -> dict[str, float]:
    line: dict[str, float] = {}
    weights = {"input.00": 1.0}
    for block in range(blocks):
        above = sum(one <= block for one in edited) / len(edited)
        line[f"activation/norm_ratio/block.{block:02d}"] = 1 - 0.5 * fallen * above * noise.uniform(0.9, 1.1)
        line[f"activation/norm_ratio/attention.{block:02d}"] = 1 - 0.3 * fallen * above
        line[f"activation/norm_ratio/mlp.{block:02d}"] = 1 + (8 if block in edited else -0.4) * fallen * above
        line[f"activation/norm_ratio/prompts.block.{block:02d}"] = 1 + 2 * fallen * above
        line[f"activation/share/prompts.mlp.{block:02d}"] = 0.5
        weights[f"attention.{block:02d}"] = 0.5 + 0.1 * np.sin(block)
        weights[f"mlp.{block:02d}"] = 0.8 + 0.5 * block / blocks + (6 if block in edited else 0) * fallen
    total = sum(weights.values())
    line |= {f"activation/share/{part}": weight / total for part, weight in weights.items()}
    line["activation/norm_ratio/late"] = line[f"activation/norm_ratio/block.{blocks - 1:02d}"]
    return line


def _traced(fallen: float, blocks: int) -> dict[str, float]:
    """An early site at the subject's last token and a late one at the prompt's; none at its middle tokens."""
    heights = {"subject_first": 0.05, "subject_last": 0.5, "next": -0.01, "middle": 0.0, "last": 0.4}
    return {
        f"trace/{kind}/{token}.{block:02d}": height
        * (1 - fallen)
        * (block if token == "last" else blocks - block)
        / blocks
        for kind in ("block", "mlp", "attention")
        for token, height in heights.items()
        for block in range(blocks)
    }


def _probes(fallen: float, noise: np.random.Generator, blocks: int, step: int) -> dict[str, float]:
    pairs = {
        (one, other): _near(noise, 0.97 - 0.4 * fallen - 0.3 * np.exp(one - other))
        for one in range(blocks)
        for other in range(one + 1, blocks)
    }
    mean = sum(pairs.values()) / len(pairs)
    line = {f"probe/accuracy/{one:02d}-{other:02d}": value for (one, other), value in pairs.items()}
    line |= {"probe/accuracy/mean": mean, "probe/accuracy/edited": mean - 0.05 * fallen}
    line |= {"probe/norm_only/mean": 0.65 - 0.1 * fallen, "probe/direct/mean": 0.5 + 0.48 * fallen}
    return line | ({} if step else {"probe/shuffled/mean": 0.51})

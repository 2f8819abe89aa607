"""Folders of runs in the documented format, written without a run; their numbers agree with one another.

Norms, growth terms and shares are consistent, as in real runs: the growth terms add up to the growth of the
squared norm, the shares to 1.
"""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import yaml

WriteRun = Callable[..., Path]
Row = dict[str, float]

BLOCKS = 6
EDITED = 1
"""The block that is edited by default."""
TOKENS = 2048
"""Tokens per optimiser step."""
SITES = ("attn_q", "attn_k", "attn_v", "attn_o", "mlp_up", "mlp_down")
KEYS = (
    "norm/frobenius_ratio/edited", "norm/frobenius_ratio/all", "norm/update/edited", "time/edit/seconds",
    "memory/peak_rss/gib", "edit/success/seen", "edit/score/seen", "text/perplexity/held_out",
)  # fmt: skip
"""Metrics of the runs of `write_random_runs`."""


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


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The blocks of a synthetic model and the matrices that change."""

    blocks: int = BLOCKS
    changed: tuple[int, ...] = (EDITED,)
    """Blocks whose matrices change."""
    attention: bool = False
    """Whether every matrix of these blocks changes, or the MLP output alone."""

    def changes(self, site: str, block: int) -> bool:
        """Whether a matrix changes."""
        return block in self.changed and (self.attention or site == "mlp_down")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a run: training, or the edits of a synthetic editor."""

    name: str
    total: int
    editor: str = ""
    ratio: float = 1.4
    """Norm of the trained matrices at the end over their first norm."""
    everything: bool = True
    """Whether all matrices are trained, or the MLP outputs of blocks 1 and 2 alone."""
    adapters: bool = False

    @property
    def unit(self) -> str:
        """The unit of the part's counts."""
        return "edits" if self.editor else "steps"

    def rows(self, seed: int) -> list[Row]:
        """The part's rows of `metrics.jsonl`."""
        if self.editor:
            return editing_rows(self.editor, Shape(), seed=seed, edits=self.total)
        return training_rows(self, seed=seed)


def write_run(
    root: Path, *, editor: str, seed: int = 0, name: str = "quick", edits: int = 60, every: int = 1,
    editor_label: str | None = None, settings: Mapping[str, object] | None = None, blocks: int = BLOCKS,
    edited: tuple[int, ...] = (EDITED,), trained: bool = False,
) -> Path:  # fmt: skip
    """A finished run of edits in `root/name`; growth terms at every `every`-th step.

    With `trained` all matrices of the edited blocks change. Rows have no part and unit, as in older runs.
    """
    label = editor_label or editor
    config = {
        "name": name, "seed": seed, "edits": edits, "batch_size": 1,
        "model": {"name": "tiny-gpt2", "dtype": "float32"},
        "editor": {"name": label, "steps": 20 if editor == "rome" else 25},
        "layers": {"edit": list(edited)}, "data": {"name": "world", "seed": seed},
        "intervention": {"name": "knowledge_edit"}, "tracker": {}, "launcher": None, "resume": True,
        **(settings or {}),
    }  # fmt: skip
    shape = Shape(blocks=blocks, changed=edited, attention=trained)
    rows = editing_rows(editor, shape, seed=seed, edits=edits, every=every)
    last = {key: value for row in rows for key, value in row.items() if "/" in key}
    summary = {
        "editor": label, "intervention": "knowledge_edit", "seed": seed, "edits": edits, "batch_size": 1,
        "objective": 0.5, "seconds": 31.5 + seed, "metrics": last,
        "alarms": [
            {"signature": key.split("/")[1], "edits": at, "sentence": f"{key} at {at:.0f} edits"}
            for key, at in last.items()
            if key.startswith("alarm/")
        ],
    }  # fmt: skip
    same = len(list((root / name).glob(f"{editor}-{seed}-*")))
    provenance = {"git": {"sha": "0123abc"}, "python": "3.11.7"}
    return _write(root / name / f"{editor}-{seed}-{same}", config, rows, summary, provenance)


def keep_metrics(folder: Path, *beginnings: str) -> None:
    """Leave only metrics with these beginnings in runs of an experiment, of which few figures are drawn."""

    def kept(row: Mapping[str, object]) -> dict[str, object]:
        return {key: value for key, value in row.items() if "/" not in key or key.startswith(beginnings)}

    for rows in folder.glob("*/metrics.jsonl"):
        summary = rows.with_name("summary.json")
        lines = [json.dumps(kept(json.loads(line))) for line in rows.read_text().splitlines()]
        rows.write_text("".join(f"{line}\n" for line in lines))
        content = json.loads(summary.read_text())
        summary.write_text(json.dumps(content | {"metrics": kept(content["metrics"])}))


def write_parts(
    root: Path, *parts: Part, seed: int = 0, name: str = "quick", settings: Mapping[str, object] | None = None
) -> Path:
    """A finished run of these parts in `root/name`."""
    editor = next((part.editor for part in parts if part.editor), "")
    intervention = parts[0].name if len(parts) == 1 else "sequence"
    config = {
        "name": name, "seed": seed, "model": {"name": "tiny-gpt2"}, "data": {"name": "world"},
        "editor": {"name": editor} if editor else None, "intervention": {"name": intervention},
        **(settings or {}),
    }  # fmt: skip
    rows = numbered(parts, seed=seed)
    summary = {
        "editor": editor, "intervention": intervention, "seed": seed, "objective": None, "seconds": 9.5,
        "statistics": "given" if editor else "", "metrics": {}, "alarms": [],
        "edits": sum(part.total for part in parts if part.editor), "tokens": rows[-1]["tokens"],
        "steps": sum(part.total for part in parts if not part.editor),
        "parts": [
            {"name": part.name, "unit": part.unit, "total": part.total, "count": part.total} for part in parts
        ],
    }  # fmt: skip
    folder = root / name / f"{'-'.join(part.name for part in parts)}-{seed}-{len(list(root.glob('*/*')))}"
    return _write(folder, config, rows, summary, {})


def write_random_runs(experiment: Path, *, runs: int, rows: int) -> None:
    """`runs` finished runs of `rows` rows of random numbers, with a configuration as long as a real one."""
    from pipeline.config.schema import resolved
    from tests.pipeline.sweeping import context_of

    context, shared = context_of(["tracker=none"])
    config = resolved(context.config_loader.load_sweep_config(shared, ["seed=0"]))
    generator = random.Random(0)
    for seed in range(runs):
        places = [
            {"part": 0, "unit": "edits", "step": count, "edits": count, "steps": 0, "tokens": 0}
            for count in range(rows)
        ]
        numbers = [place | {key: generator.random() for key in KEYS} for place in places]
        summary = {
            "editor": "memit", "intervention": "knowledge_edit", "seed": seed, "batch_size": 1,
            "objective": 0.5, "seconds": 1.0, "metrics": {}, "edits": rows - 1, "steps": 0, "tokens": 0,
            "parts": [{"name": "memit", "unit": "edits", "total": rows - 1, "count": rows - 1}], "alarms": [],
        }  # fmt: skip
        provenance = {"command": "python -m pipeline", "git": None}
        _write(experiment / f"{seed:010x}", config | {"seed": seed}, numbers, summary, provenance)


def _write(
    folder: Path,
    config: Mapping[str, object],
    rows: Iterable[Mapping[str, object]],
    summary: Mapping[str, object],
    provenance: Mapping[str, object],
) -> Path:
    """Write a finished run's files; returns its folder."""
    folder.mkdir(parents=True)
    common = {
        "run": folder.name, "name": folder.parent.name, "data": "world", "stopped": False,
        "model": cast(Mapping[str, str], config["model"]).get("name", "tiny-gpt2"),
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps(common | summary))
    (folder / "DONE").write_text("2026-01-31T12:00:00+00:00")
    return folder


def write_rows(folder: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Give a run other rows, and its summary their last values."""
    listed = list(rows)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in listed))
    summary = json.loads((folder / "summary.json").read_text())
    last = {key: value for row in listed for key, value in row.items() if "/" in key}
    (folder / "summary.json").write_text(json.dumps(summary | {"metrics": last}))


def numbered(parts: Sequence[Part], *, seed: int) -> list[dict[str, object]]:
    """The rows of all parts, each with its part, unit and counts so far."""
    rows: list[dict[str, object]] = []
    counts = {"edits": 0, "steps": 0, "tokens": 0}
    for place, part in enumerate(parts):
        earlier_tokens = counts["tokens"]
        for count, row in enumerate(part.rows(seed)):
            counts |= {part.unit: count}
            if part.unit == "steps":
                counts["tokens"] = earlier_tokens + TOKENS * count
            bookkeeping = {"part": place, "unit": part.unit, "step": len(rows), **counts}
            rows.append(bookkeeping | {key: float(value) for key, value in row.items() if "/" in key})
    return rows


def editing_rows(editor: str, shape: Shape, *, seed: int, edits: int, every: int = 1) -> list[Row]:
    """The rows of edits, one by one; growth terms at every `every`-th step."""
    noise, damage = np.random.default_rng([seed, len(editor)]), EDITORS[editor]
    ratio = damage.ratio ** ((np.arange(edits + 1) / edits) ** noise.uniform(0.9, 1.2))
    spectral = {0, edits, *(10**power for power in range(5))}
    alarms = {name: round(edits * share * noise.uniform(0.8, 1.2)) for name, share in damage.alarms.items()}
    rows = []
    for step in range(edits + 1):
        row: Row = {"step": step, "edits": step, "time/step/seconds": 0.1}
        row |= _norms(shape, ratio, step, whole=step % 10 == 0)
        if step and step % every == 0:
            row |= _growth_terms(shape, ratio, step, damage.square)
        fall = damage.fall * (step / edits) ** 1.3
        if step % 10 == 0:
            row |= _scores(fall, noise, step) | _activations(shape, fall, noise)
            row |= _probes(shape, fall, noise, step)
        if step in (0, edits):
            row |= _effects(shape, fall)
        if step in spectral:
            row |= _singular_values(shape, ratio[step], step)
        row |= {f"alarm/{name}/at": at for name, at in alarms.items() if at == step}
        rows.append({key: float(value) if "/" in key else value for key, value in row.items()})
    return rows


def training_rows(part: Part, *, seed: int) -> list[Row]:
    """The rows of training, without growth terms: no single update is logged."""
    noise = np.random.default_rng([seed, len(part.name)])
    ratio = part.ratio ** ((np.arange(part.total + 1) / part.total) ** noise.uniform(0.6, 0.8))
    shape = Shape(changed=tuple(range(BLOCKS)) if part.everything else (1, 2), attention=part.everything)
    rows = []
    for step in range(part.total + 1):
        row: Row = {}
        if step % 10 == 0 or step == part.total:
            row |= _norms(shape, ratio, step, whole=True)
        if step % 20 == 0:
            fall = 0.3 * step / part.total
            row |= _scores(fall, noise, 0) | _activations(shape, fall, noise)
            row |= _probes(shape, fall, noise, step)
        if step:
            row["train/loss/step"] = 3.5 * (1 + step) ** -0.3 + noise.normal(scale=0.05)
            row["train/learning_rate/step"] = 1e-4
        if part.adapters:
            row |= _adapters(step / part.total)
        rows.append(row)
    return rows


def _adapters(share: float) -> Row:
    return {
        f"lora/{norm}/attn_q.{block:02d}": value * (1 + 0.1 * block)
        for block in range(BLOCKS)
        for norm, value in {"norm_product": share, "norm_a": 2 + 0.2 * share, "norm_b": 0.8 * share}.items()
    }


def _first_norm(site: str, block: int) -> float:
    return 12 + 3 * SITES.index(site) + block


def _norms(shape: Shape, ratio: np.ndarray, step: int, *, whole: bool) -> Row:
    """Norms of the matrices that change, or with `whole` of all."""
    row = {"norm/frobenius_ratio/edited": ratio[step]}
    if whole:
        row["norm/frobenius_ratio/static"] = 1.0
        row["norm/frobenius_ratio/mlp"] = 1 + 0.3 * (ratio[step] - 1)
        row["norm/frobenius_ratio/attention"] = 1 + 0.2 * (ratio[step] - 1) * shape.attention
    for site in SITES:
        for block in range(shape.blocks):
            changes = shape.changes(site, block)
            if whole or changes:
                growth = ratio[step] if changes else 1.0
                row[f"norm/frobenius/{site}.{block:02d}"] = _first_norm(site, block) * growth
                row[f"norm/frobenius_ratio/{site}.{block:02d}"] = growth
    return row


def _growth_terms(shape: Shape, ratio: np.ndarray, step: int, square: float) -> Row:
    """Growth of ‖W‖² in a step, split into its two terms; `square` is the share of ‖Δ‖²."""
    row: Row = {}
    for site in SITES:
        for block in filter(lambda block, site=site: shape.changes(site, block), range(shape.blocks)):
            growth = _first_norm(site, block) ** 2 * (ratio[step] ** 2 - ratio[step - 1] ** 2)
            row[f"norm/growth_cross/{site}.{block:02d}"] = growth * (1 - square)
            row[f"norm/growth_square/{site}.{block:02d}"] = growth * square
            row[f"norm/delta/{site}.{block:02d}"] = (growth * square) ** 0.5
    return row


def _singular_values(shape: Shape, ratio: float, step: int) -> Row:
    return {
        f"norm/singular_{place}/mlp_down.{block:02d}": (10 - place)
        * (1 + ((ratio if block in shape.changed else 1.0) - 1) / place**2)
        for block in (range(shape.blocks) if step == 0 else shape.changed)
        for place in range(1, 6)
    }


def _near(noise: np.random.Generator, value: float) -> float:
    return float(np.clip(value + noise.normal(scale=0.02), 0, 1))


def _scores(fall: float, noise: np.random.Generator, step: int) -> Row:
    row = {"edit/known/unedited": _near(noise, 0.98 - fall)}
    best = {"sentiment": 0.95, "qa": 0.9, "choice": 0.4}
    tasks = {task: _near(noise, value - 0.5 * fall) for task, value in best.items()}
    row |= {f"downstream/{task}/acc": value for task, value in tasks.items()}
    row |= {f"downstream/{task}/stderr": 0.01 for task in tasks}
    row["downstream/mean/acc"] = sum(tasks.values()) / len(tasks)
    row["text/perplexity/held_out"] = 12 * np.exp(3 * fall)
    row["generation/entropy/mean"] = 6 - 3 * fall
    if step:
        starts = {"rewrite": (0.99, 0.6), "paraphrase": (0.95, 0.6), "neighbour": (0.93, 0.3)}
        success = {kind: _near(noise, top - share * fall) for kind, (top, share) in starts.items()}
        row |= {f"edit/success/seen.{kind}": value for kind, value in success.items()}
        row["edit/score/seen"] = 3 / sum(1 / max(value, 1e-6) for value in success.values())
        row["edit/success/first50.rewrite"] = _near(noise, 0.99 - 0.8 * fall)
        row["edit/known/other"] = _near(noise, 0.7 - fall)
        edges = [edge for edge in (10, 20, 50, 100, 200, 500, 1000) if edge < 2.5 * step]
        row |= {
            f"edit/retention/{edge:04d}": _near(noise, 0.99 - fall * min(edge / step, 1)) for edge in edges
        }
    return row


def _activations(shape: Shape, fall: float, noise: np.random.Generator) -> Row:
    row: Row = {}
    weights = {"input.00": 1.0}
    for block in range(shape.blocks):
        above = sum(changed <= block for changed in shape.changed) / len(shape.changed)
        is_changed = block in shape.changed
        row[f"activation/norm_ratio/block.{block:02d}"] = 1 - 0.5 * fall * above * noise.uniform(0.9, 1.1)
        row[f"activation/norm_ratio/attention.{block:02d}"] = 1 - 0.3 * fall * above
        row[f"activation/norm_ratio/mlp.{block:02d}"] = 1 + (8 if is_changed else -0.4) * fall * above
        row[f"activation/norm_ratio/prompts.block.{block:02d}"] = 1 + 2 * fall * above
        row[f"activation/share/prompts.mlp.{block:02d}"] = 0.5
        weights[f"attention.{block:02d}"] = 0.5 + 0.1 * np.sin(block)
        weights[f"mlp.{block:02d}"] = 0.8 + 0.5 * block / shape.blocks + (6 if is_changed else 0) * fall
    total = sum(weights.values())
    row |= {f"activation/share/{part}": weight / total for part, weight in weights.items()}
    row["activation/norm_ratio/late"] = row[f"activation/norm_ratio/block.{shape.blocks - 1:02d}"]
    return row


def _effects(shape: Shape, fall: float) -> Row:
    """An early site at the subject's last token and a late one at the prompt's; none at its middle tokens."""
    heights = {"subject_first": 0.05, "subject_last": 0.5, "next": -0.01, "middle": 0.0, "last": 0.4}
    return {
        f"trace/{kind}/{token}.{block:02d}": height
        * (1 - fall)
        * (block if token == "last" else shape.blocks - block)
        / shape.blocks
        for kind in ("block", "mlp", "attention")
        for token, height in heights.items()
        for block in range(shape.blocks)
    }


def _probes(shape: Shape, fall: float, noise: np.random.Generator, step: int) -> Row:
    pairs = {
        (one, other): _near(noise, 0.97 - 0.4 * fall - 0.3 * np.exp(one - other))
        for one in range(shape.blocks)
        for other in range(one + 1, shape.blocks)
    }
    mean = sum(pairs.values()) / len(pairs)
    row = {f"probe/accuracy/{one:02d}-{other:02d}": value for (one, other), value in pairs.items()}
    row |= {"probe/accuracy/mean": mean, "probe/accuracy/edited": mean - 0.05 * fall}
    row |= {"probe/norm_only/mean": 0.65 - 0.1 * fall, "probe/direct/mean": 0.5 + 0.48 * fall}
    return row | ({} if step else {"probe/shuffled/mean": 0.51})

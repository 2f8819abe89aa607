"""Causal tracing: which states, at which token and block, carry a fact to the answer.

Noise hides the subject's embeddings until the model no longer answers; then one state after another is put
back to its clean value, and what the answer gains by that is the state's indirect effect. In the paper two
sites stand out: an early one, MLPs of middle blocks at the subject's last token, and a late one, attention at
the last token (Meng et al. 2022, arXiv 2202.05262, section 2).
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.inference.residuals import PARTS
from analysis.inference.scoring import Scorer
from analysis.stages.base import Cadence, Measurement, Observation
from analysis.stages.tracing.corrupted_runs import CorruptedRuns, Prompt, Restored, read
from editors.data import Fact
from editors.errors import ConfigError, DataError
from editors.models.model import Model

log = logging.getLogger(__name__)

POSITIONS = ("subject_first", "subject_middle", "subject_last", "next", "middle", "last")
"""Classes of tokens, from left to right."""
_BLOCKS_A_WINDOW = 5
"""The window is the depth over this; the paper's is 10 of 48 blocks."""


@runtime_checkable
class Facts(Protocol):
    """A set of facts."""

    @property
    def facts(self) -> Sequence[Fact]:
        """In an order that is always the same."""
        ...


@runtime_checkable
class Source(Protocol):
    """Where facts come from."""

    def load(self) -> Facts:
        """The facts."""
        ...


@dataclass(kw_only=True)
class CausalTrace:
    """Indirect effects of single states on known facts, by kind, class of token and block.

    P is the probability of the true object's first token: clean, corrupted by noise at the subject, and
    restored at one cell of the corrupted run. Total effect = P(clean) − P(corrupted), indirect effect =
    P(restored) − P(corrupted): means over draws of the noise, over a fact's tokens of a class, over facts. A
    cell is what a block leaves in the residual stream (`block`), or what `mlp` or `attention` write in a
    window of blocks around one. Tokens before the subject have no effect and no class.

    A prompt's last token is `last` whatever else it is; a subject of one token is `subject_last`; a class
    that a prompt does not have is left out of the mean.

    Keys: `trace/<kind>/<class>.<LL>`, `trace/total/mean`, `trace/clean/mean`, `trace/corrupted/mean`, the
    blocks with the largest effect, `trace/peak/mlp` (at `subject_last`) and `trace/late/attention` (at
    `last`), and `trace/known/facts`, how many facts are traced.

    The facts are those that the run edits, or else those of `source`. Which of them are known is asked once,
    of the unedited model; an edited one is traced on the same facts, for their true objects, with the same
    noise.
    """

    source: Source | None = None
    """The facts of runs that edit none."""
    name: str = "tracing"
    cadence: Cadence = field(default_factory=Cadence)
    facts: int = 100
    """Facts that are traced at the most, drawn by `seed`."""
    only_known: bool = True
    """Leave out facts whose true object is not the model's first choice, as the paper does."""
    noise: float = 3.0
    """Standard deviation of the noise over that of all entries of the subjects' embeddings."""
    samples: int = 10
    """Draws of the noise."""
    window: int | None = None
    """Blocks whose `mlp` or `attention` is restored together; a fifth of the model's where it is null."""
    seed: int = 0
    """Of the order of the facts and of the noise."""
    batch_tokens: int = 8192
    """Of one forward pass."""

    def __post_init__(self) -> None:
        least = {"facts": 1, "noise": 0, "samples": 1, "batch_tokens": 1, "window": 1}
        for key, low in least.items():
            value = getattr(self, key)
            if value is not None and value < low:
                raise ConfigError(f"stage.tracing.{key}={value}, but it is at least {low}")

    @torch.inference_mode()
    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Find facts that the unedited model knows, and how strong the noise is.

        Raises:
            ConfigError: where there are no facts to trace.
            DataError: where none has a true object, or the model knows none; as `corrupted.read`.
        """
        facts = planned or (self.source.load().facts if self.source else ())
        if not facts:
            raise ConfigError(
                "stage.tracing has no facts: the run edits none and stage.tracing.source is not set"
            )
        asked, self._prompts = self._known(model, [fact for fact in facts if fact.target_true])
        if not self._prompts:
            raise DataError(_nothing_to_trace(model, asked, len(facts)))
        left = len(asked) - len(self._prompts)
        log.info("tracing: %d facts, %d others are left out as not known", len(self._prompts), left)
        subjects = [token for prompt in asked for token in prompt.ids[_span(prompt.subject)]]
        embedded = model.embedding(torch.tensor(subjects, device=model.device))
        self._scale = self.noise * float(embedded.double().std())

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Trace every fact on the model as it is."""
        generator = torch.Generator().manual_seed(self.seed)
        found: dict[str, list[Tensor]] = {}
        answers: dict[str, list[float]] = {"clean": [], "corrupted": [], "total": []}
        for prompt in self._prompts:
            shape = (self.samples, len(prompt.subject), model.width)
            noise = self._scale * torch.randn(shape, generator=generator)
            runs = CorruptedRuns(model, prompt, noise, batch_tokens=self.batch_tokens)
            effects, corrupted = self._effects(runs), float(runs.corrupted.mean())
            for name, value in zip(answers, (runs.clean, corrupted, runs.clean - corrupted), strict=True):
                answers[name].append(value)
            for position, places in classes(prompt).items():
                here = [place - prompt.subject.start for place in places]
                found.setdefault(position, []).append(effects[:, :, here].mean(dim=2))
        result: Measurement = {"trace/known/facts": float(len(self._prompts))}
        result |= {f"trace/{name}/mean": sum(values) / len(values) for name, values in answers.items()}
        return result | _told({name: torch.stack(one).mean(dim=0) for name, one in found.items()})

    def _known(self, model: Model, facts: Sequence[Fact]) -> tuple[list[Prompt], list[Prompt]]:
        """Facts in the seed's order until enough of them are known: all that were asked, and those known."""
        order = random.Random(self.seed).sample(facts, len(facts))
        scorer = Scorer(model, batch_tokens=self.batch_tokens)
        asked: list[Prompt] = []
        known: list[Prompt] = []
        while order and len(known) < self.facts:
            chunk, order = order[: self.facts], order[self.facts :]
            said = scorer.score([(fact.statement, fact.target_true) for fact in chunk]).choices
            for fact, choices in zip(chunk, said, strict=True):
                if len(known) < self.facts:
                    asked.append(prompt := read(model, fact))
                    known += [prompt] if not self.only_known or choices[0] == prompt.answer else []
        return asked, known

    def _effects(self, runs: CorruptedRuns) -> Float[Tensor, "kind block token"]:
        """The indirect effect of every cell from the subject's first token on."""
        depth = runs.model.depth
        places = range(runs.prompt.subject.start, len(runs.prompt.ids))
        window = self.window or max(1, round(depth / _BLOCKS_A_WINDOW))
        cells = [
            Restored(kind, windowed(layer, depth, 1 if kind == "block" else window), (place,))
            for kind in PARTS
            for layer in range(depth)
            for place in places
        ]
        effects = runs.probabilities(cells).mean(dim=1) - runs.corrupted.mean()
        return effects.reshape(len(PARTS), depth, len(places))


def windowed(layer: int, depth: int, window: int) -> range:
    """The `window` blocks around one, an even window's middle above it; fewer at the ends of the model."""
    first = layer - window // 2
    return range(max(0, first), min(depth, first + window))


def classes(prompt: Prompt) -> dict[str, list[int]]:
    """Positions of each class of tokens that the prompt has, from its subject on."""
    found: dict[str, list[int]] = {}
    for place in range(prompt.subject.start, len(prompt.ids)):
        found.setdefault(_class(place, prompt), []).append(place)
    return found


def _class(place: int, prompt: Prompt) -> str:
    subject = prompt.subject
    if place == len(prompt.ids) - 1:
        return "last"
    if place in subject:
        first = "subject_first" if place == subject[0] else "subject_middle"
        return "subject_last" if place == subject[-1] else first
    return "next" if place == subject.stop else "middle"


def _span(places: range) -> slice:
    return slice(places.start, places.stop)


def _told(means: dict[str, Tensor]) -> Measurement:
    """The keys of mean effects (kind, block) by class of token."""
    result: Measurement = {
        f"trace/{kind}/{position}.{layer:02d}": float(value)
        for position in POSITIONS
        if position in means
        for kind, effects in zip(PARTS, means[position], strict=True)
        for layer, value in enumerate(effects)
    }
    if "subject_last" in means:
        result["trace/peak/mlp"] = _largest(means["subject_last"][PARTS.index("mlp")])
    if "last" in means:
        result["trace/late/attention"] = _largest(means["last"][PARTS.index("attention")])
    return result


def _largest(effects: Float[Tensor, " block"]) -> float:
    """The block with the largest effect; NaN where the model gives no numbers."""
    return float(effects.argmax()) if bool(effects.isfinite().all()) else float("nan")


def _nothing_to_trace(model: Model, asked: Sequence[Prompt], facts: int) -> str:
    if not asked:
        return (
            f"stage.tracing: none of the {facts} facts has a true object, whose probability is traced: "
            f"choose other data, with zsRE data.target=alternative"
        )
    return (
        f"stage.tracing: {model.name} answers none of {len(asked)} facts with their true object, so there is "
        f"nothing to trace: choose data that the model knows, or stage.tracing.only_known=false"
    )

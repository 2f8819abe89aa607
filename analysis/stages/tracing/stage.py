"""Causal tracing: which states, at which token and block, carry a fact to the answer.

"The Eiffel Tower is in" makes the model answer "Paris". Somewhere between the subject's tokens and the last
one the fact has to be looked up. To find the place, noise on the subject's embeddings makes the model lose
the answer; then one hidden state at a time is restored to its clean value. The probability that the answer
regains is the state's indirect effect:

    total effect     P(clean) − P(corrupted)
    indirect effect  P(restored) − P(corrupted)

A state with a large indirect effect is sufficient to carry the fact on. In the paper two sites stand out: an
early one, MLPs of middle blocks at the subject's last token, and a late one, attention at the last token
(Meng et al. 2022, arXiv 2202.05262, section 2). The early site is where locate-then-edit methods write.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.inference.residuals import PARTS
from analysis.inference.scoring import Scorer
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from analysis.stages.tracing.corrupted_runs import CorruptedRuns, Prompt, RestoredCell, tokenize_fact
from editors.data import Fact
from editors.errors import ConfigError, DataError
from editors.models.model import Model

log = logging.getLogger(__name__)

TOKEN_CLASSES = ("subject_first", "subject_middle", "subject_last", "next", "middle", "last")
"""Classes of tokens, from left to right."""
_WINDOWS = 5
"""The default window is the depth divided by this; the paper's is 10 of 48 blocks."""


@runtime_checkable
class FactSet(Protocol):
    """A set of facts."""

    @property
    def facts(self) -> Sequence[Fact]:
        """The facts, always in the same order."""
        ...


@runtime_checkable
class FactSource(Protocol):
    """A data set that can be loaded."""

    def load(self) -> FactSet:
        """The facts of the data set."""
        ...


@dataclass(kw_only=True)
class CausalTrace(Stage):
    """Indirect effects of single states on known facts, by kind, class of token and block.

    P is the probability of the true object's first token: clean, corrupted by noise at the subject, and
    restored at one cell of the corrupted run. Effects are means over draws of the noise, over a fact's tokens
    of a class, over facts. A cell is the output of a block in the residual stream (`block`), or the vectors
    that `mlp` or `attention` write in a window of blocks around one. Tokens before the subject have no effect
    and no class.

    A prompt's last token always has the class `last`, a subject of one token is `subject_last`; a class that
    a prompt does not have is left out of the mean.

    Keys: `trace/<kind>/<class>.<LL>`, `trace/total/mean`, `trace/clean/mean`, `trace/corrupted/mean`, the
    blocks with the largest effect, `trace/peak/mlp` (at `subject_last`) and `trace/late/attention` (at
    `last`), and `trace/known/facts`, how many facts are traced.

    The facts are those that the run edits, or those of `source` if it edits none. The unedited model decides
    once which of them are known; an edited model is traced on the same facts, for their true objects, with
    the same noise.
    """

    source: FactSource | None = None
    """The facts of runs that edit none."""
    name: str = "tracing"
    cadence: Cadence = field(default_factory=Cadence)
    facts: int = 100
    """Most facts that are traced, drawn by `seed`."""
    only_known: bool = True
    """Leave out facts whose true object is not the model's first choice, as the paper does."""
    noise: float = 3.0
    """Standard deviation of the noise over that of all entries of the subjects' embeddings."""
    samples: int = 10
    """Draws of the noise."""
    kinds: Sequence[str] = PARTS
    """Kinds of cells that are restored."""
    classes: Sequence[str] = TOKEN_CLASSES
    """Classes of tokens at which they are restored; each adds as many runs as it has tokens."""
    window: int | None = None
    """Blocks whose `mlp` or `attention` is restored together; null means a fifth of the model's."""
    seed: int = 0
    """Seed of the order of the facts and of the noise."""
    batch_tokens: int = 8192
    """Tokens of one forward pass."""

    def __post_init__(self) -> None:
        self.check_minimums(facts=1, noise=0, samples=1, batch_tokens=1, window=1)
        for key, values, known in (
            ("kinds", self.kinds, PARTS),
            ("classes", self.classes, TOKEN_CLASSES),
        ):
            if not values or not set(values) <= set(known):
                raise ConfigError(
                    f"stage.tracing.{key}={list(values)}, but it is a list of {', '.join(known)}"
                )

    @torch.inference_mode()
    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Find facts that the unedited model knows, and determine the strength of the noise.

        Raises:
            ConfigError: if there are no facts to trace.
            DataError: if none has a true object, or the model knows none; or as `tokenize_fact`.
        """
        facts = planned or (self.source.load().facts if self.source else ())
        if not facts:
            raise ConfigError(
                "stage.tracing has no facts: the run edits none and stage.tracing.source is not set"
            )
        tried, self._prompts = self._find_known(model, [fact for fact in facts if fact.target_true])
        if not self._prompts:
            raise DataError(_no_facts_message(model, tried, len(facts)))
        unknown = len(tried) - len(self._prompts)
        log.info("tracing: %d facts, %d others are left out as not known", len(self._prompts), unknown)
        subjects = [prompt.ids[position] for prompt in tried for position in prompt.subject]
        embeddings = model.embedding(torch.tensor(subjects, device=model.device))
        self._scale = self.noise * float(embeddings.double().std())

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Trace every fact on the current model."""
        generator = torch.Generator().manual_seed(self.seed)
        effects_by_class: dict[str, list[Tensor]] = {}
        probabilities: dict[str, list[float]] = {"clean": [], "corrupted": [], "total": []}
        for prompt in self._prompts:
            shape = (self.samples, len(prompt.subject), model.width)
            noise = self._scale * torch.randn(shape, generator=generator)
            runs = CorruptedRuns(model, prompt, noise, batch_tokens=self.batch_tokens)
            classes = {key: at for key, at in token_classes(prompt).items() if key in self.classes}
            positions = [position for at in classes.values() for position in at]
            effects, corrupted = self._effects(runs, positions), float(runs.corrupted.mean())
            values = (runs.clean, corrupted, runs.clean - corrupted)
            for name, value in zip(probabilities, values, strict=True):
                probabilities[name].append(value)
            for token_class, at in classes.items():
                columns = [positions.index(position) for position in at]
                effects_by_class.setdefault(token_class, []).append(effects[:, :, columns].mean(dim=2))
        result: Measurement = {"trace/known/facts": float(len(self._prompts))}
        result |= {f"trace/{name}/mean": sum(values) / len(values) for name, values in probabilities.items()}
        means = {name: torch.stack(each).mean(dim=0) for name, each in effects_by_class.items()}
        return result | self._effect_metrics(means)

    def _find_known(self, model: Model, facts: Sequence[Fact]) -> tuple[list[Prompt], list[Prompt]]:
        """Prompts of facts in the seed's order until `facts` of them are known: all tried, and the known."""
        order = random.Random(self.seed).sample(facts, len(facts))
        scorer = Scorer(model, batch_tokens=self.batch_tokens)
        tried: list[Prompt] = []
        known: list[Prompt] = []
        while order and len(known) < self.facts:
            chunk, order = order[: self.facts], order[self.facts :]
            scores = scorer.score([(fact.statement, fact.target_true) for fact in chunk])
            for fact, choices in zip(chunk, scores.choices, strict=True):
                if len(known) < self.facts:
                    tried.append(prompt := tokenize_fact(model, fact))
                    known += [prompt] if not self.only_known or choices[0] == prompt.answer else []
        return tried, known

    def _effects(self, runs: CorruptedRuns, positions: Sequence[int]) -> Float[Tensor, "kind block token"]:
        """The indirect effect of every cell at these positions."""
        depth = runs.model.depth
        window = self.window or max(1, round(depth / _WINDOWS))
        cells = [
            RestoredCell(kind, blocks_around(layer, depth, 1 if kind == "block" else window), (position,))
            for kind in self.kinds
            for layer in range(depth)
            for position in positions
        ]
        effects = runs.probabilities(cells).mean(dim=1) - runs.corrupted.mean()
        return effects.reshape(len(self.kinds), depth, len(positions))

    def _effect_metrics(self, means: Mapping[str, Float[Tensor, "kind block"]]) -> Measurement:
        """The metrics of mean effects by class of token."""
        result: Measurement = {
            f"trace/{kind}/{token_class}.{layer:02d}": float(value)
            for token_class in TOKEN_CLASSES
            if token_class in means
            for kind, effects in zip(self.kinds, means[token_class], strict=True)
            for layer, value in enumerate(effects)
        }
        if "subject_last" in means and "mlp" in self.kinds:
            result["trace/peak/mlp"] = _largest(means["subject_last"][self.kinds.index("mlp")])
        if "last" in means and "attention" in self.kinds:
            result["trace/late/attention"] = _largest(means["last"][self.kinds.index("attention")])
        return result


def blocks_around(layer: int, depth: int, window: int) -> range:
    """The `window` blocks around one; an even window has one block less above. Fewer at the model's ends."""
    first = layer - window // 2
    return range(max(0, first), min(depth, first + window))


def token_classes(prompt: Prompt) -> dict[str, list[int]]:
    """Positions of each class of tokens that the prompt has, from its subject on."""
    classes: dict[str, list[int]] = {}
    for position in range(prompt.subject.start, len(prompt.ids)):
        classes.setdefault(_class_of(position, prompt), []).append(position)
    return classes


def _class_of(position: int, prompt: Prompt) -> str:
    subject = prompt.subject
    if position == len(prompt.ids) - 1:
        return "last"
    if position in subject:
        first = "subject_first" if position == subject[0] else "subject_middle"
        return "subject_last" if position == subject[-1] else first
    return "next" if position == subject.stop else "middle"


def _largest(effects: Float[Tensor, " block"]) -> float:
    """Number of the block with the largest effect; NaN if an effect is not finite."""
    return float(effects.argmax()) if bool(effects.isfinite().all()) else float("nan")


def _no_facts_message(model: Model, tried: Sequence[Prompt], facts: int) -> str:
    if not tried:
        return (
            f"stage.tracing: none of the {facts} facts has a true object, whose probability is traced: "
            f"choose other data, with zsRE data.target=alternative"
        )
    return (
        f"stage.tracing: {model.name} answers none of {len(tried)} facts with their true object, so there is "
        f"nothing to trace: choose data that the model knows, or stage.tracing.only_known=false"
    )

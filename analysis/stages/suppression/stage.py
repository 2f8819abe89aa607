"""Is the old object erased or hushed: by block, after another fact, with a part of drift or weights.

An edit that makes the new object the first choice may leave the old one in the model. Asked are edited facts
whose old object was the unedited model's first choice.

    lens       probability of the first token of the old and the new object after the prompt, read off the
               output of every block through the final norm and the head
    attacked   share whose old object is likelier than the new one after a sentence with another fact of the
               same subject, which the run did not edit
    restored   share whose old object is the first choice again once the drift D = W − W₀ of every edited
               matrix is reduced to (1 − energy) ‖D‖²: by its largest singular directions, or as a whole,
               √(1 − energy) D. What the first restores and the second does not lies in few directions.
    mask       the same share of one half of the subjects, once few entries of the edited matrices are set to
               zero that were chosen for the other half (`mask.py`); beside it, as controls, as many random
               entries, and facts of subjects that the run never edits

Sources: attacks arXiv 2505.12636, singular directions arXiv 2505.20819, mask arXiv 2605.28839. Deviation: the
attack takes a fact of the data where the paper takes sentences of an encyclopedia.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.inference.scoring import Ids, Scorer
from analysis.stages.base import Cadence, Measurement, Observation, Stage, spread_over
from analysis.stages.suppression.mask import Mask, random_mask, removed_share, train
from editors.data import Fact, Reader
from editors.errors import ConfigError
from editors.models.hooks import capture
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize
from editors.updates import Site, at_least_float32

log = logging.getLogger(__name__)

Reduction = Callable[[Float[Tensor, "out in"]], Float[Tensor, "out in"]]
Change = Callable[[Site, Float[Tensor, "out in"]], Float[Tensor, "out in"]]
"""From a matrix, in at least float32, to the one in its place."""
_PROMPTS = 64
"""Prompts of one forward pass."""


@dataclass(kw_only=True)
class Suppression(Stage):
    """What is left of the old objects of facts that the unedited model knew.

    Keys: `edit/lens/old.block.<layer>` and `edit/lens/new.block.<layer>`; `edit/hushed/attacked` and
    `.plain`, the latter without the sentence before; `edit/hushed/restored` by singular directions,
    `.shrunk` as a whole, and `.unchanged` with the whole drift. Facts without an old object, and those that
    the unedited model did not know, are not asked about; without any there are no numbers. With `mask`:
    `edit/mask/removed` and `.unchanged`; `.restored`, `.likelier`, `.trained` and `.kept` under the mask, and
    with `_random` after the name under the random one.
    """

    name: str = "suppression"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(100, 1000, 10_000)))
    facts: int = 100
    """Most edited facts that are asked about, spread over those so far."""
    energy: float = 0.5
    """Share of ‖D‖² that is taken away."""
    mask: float | None = None
    """Largest share of the edited weights that a mask may remove, the paper's is 0.1; None trains none.

    Training costs `mask_steps` forward and backward passes over half of the facts.
    """
    mask_steps: int = 30
    """Steps of its training, in which the half that is trained on comes back in the built-in models."""
    seed: int = 0
    """Seed of the halves and of the random mask."""

    def __post_init__(self) -> None:
        self.check_minimums(facts=1, mask_steps=1)
        if self.mask is not None and not 0 < self.mask < 1:
            raise ConfigError(f"stage.{self.name}.mask={self.mask}, but it has to lie between 0 and 1")
        if not 0 < self.energy < 1:
            raise ConfigError(f"stage.{self.name}.energy={self.energy}, but it has to lie between 0 and 1")

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Find the planned facts that the unedited model knows."""
        self._scorer = Scorer(model)
        asked = [fact for fact in planned if fact.target_true]
        pairs = [(fact.statement, fact.target_true) for fact in asked]
        exact = self._scorer.score(pairs).exact.tolist() if pairs else []
        self._known = {fact.id for fact, known in zip(asked, exact, strict=True) if known}
        if planned and not self._known:
            log.warning(
                "%s: the unedited model knows none of the %d edited facts with an old object, so nothing "
                "is measured; data.known_by chooses facts that a model knows",
                self.name,
                len(asked),
            )

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Ask about the known facts among the edits so far; nothing before the first edit."""
        facts = spread_over([fact for fact in observation.seen if fact.id in self._known], self.facts)
        if not facts:
            return {}
        self._scorer.model, self._scorer.reader = model, observation.reader
        result = _lens(model, facts, observation.reader) | self._attacked(facts, observation.others)
        reference = observation.reference
        if reference is not None:
            result["edit/hushed/unchanged"] = self._first(facts)
            for name, reduction in (("restored", self._without_largest), ("shrunk", self._shrunk)):
                with _changed(model, observation.edited, _reduced(reference.weights, reduction)):
                    result[f"edit/hushed/{name}"] = self._first(facts)
        if self.mask is not None and observation.edited:
            result |= self._masked(model, facts, observation)
        return result

    def _first(self, facts: Sequence[Fact]) -> float:
        """Share of the facts whose old object is the first choice."""
        return float(self._is_first(facts).double().mean())

    def _is_first(self, facts: Sequence[Fact]) -> Bool[Tensor, " fact"]:
        return self._scorer.score([(fact.statement, fact.target_true) for fact in facts]).exact

    def _masked(self, model: Model, facts: Sequence[Fact], observation: Observation) -> Measurement:
        """What a mask for one half of the facts does to the other half and to facts that were not edited."""
        assert self.mask is not None
        trained, judged = halves(facts, self.seed)
        if not (trained and judged):
            log.warning(
                "%s: no mask, because the edited facts that the model knew have one subject", self.name
            )
            return {}
        reader, sites = observation.reader, observation.edited
        texts = [_tokens(model, reader(fact.statement), fact.target_true) for fact in trained]
        mask = train(model, sites, texts, share=self.mask, steps=self.mask_steps)
        others = spread_over([fact for fact in observation.untouched if fact.target_true], self.facts)
        known = [fact for fact, first in zip(others, self._is_first(others), strict=True) if first]
        result: Measurement = {
            "edit/mask/removed": removed_share(mask),
            "edit/mask/unchanged": self._first(judged),
        }
        groups = {"restored": judged, "trained": trained, "kept": known}
        for suffix, removed in (("", mask), ("_random", random_mask(mask, self.seed))):
            with _changed(model, sites, _without(removed)):
                for name, group in groups.items():
                    if group:
                        result[f"edit/mask/{name}{suffix}"] = self._first(group)
                likelier = self._likelier(judged, [fact.statement for fact in judged])
                result[f"edit/mask/likelier{suffix}"] = likelier
        return result

    def _attacked(self, facts: Sequence[Fact], others: Sequence[Fact]) -> Measurement:
        """Share whose old object is likelier, with and without a sentence about the subject."""
        sentences = {
            fact.subject: f"{fact.statement} {fact.target_true}. " for fact in others if fact.target_true
        }
        chosen = [fact for fact in facts if fact.subject in sentences]
        if not chosen:
            return {}
        prompts = {
            "plain": [fact.statement for fact in chosen],
            "attacked": [sentences[fact.subject] + fact.statement for fact in chosen],
        }
        return {f"edit/hushed/{name}": self._likelier(chosen, asked) for name, asked in prompts.items()}

    def _likelier(self, facts: Sequence[Fact], prompts: Sequence[str]) -> float:
        pairs = list(zip(prompts, facts, strict=True))
        old = self._scorer.score([(prompt, fact.target_true) for prompt, fact in pairs]).log_probability
        new = self._scorer.score([(prompt, fact.target_new) for prompt, fact in pairs]).log_probability
        return float((old > new).double().mean())

    def _without_largest(self, drift: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The drift without the fewest largest singular directions that hold `energy` of ‖D‖²."""
        left, values, right = torch.linalg.svd(drift, full_matrices=False)
        held = values.square().cumsum(dim=0) / values.square().sum().clamp(min=1e-30)
        taken = 1 + int((held < self.energy).sum())
        return (left[:, taken:] * values[taken:]) @ right[taken:]

    def _shrunk(self, drift: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The whole drift with as little energy."""
        return (1 - self.energy) ** 0.5 * drift


def halves(facts: Sequence[Fact], seed: int) -> tuple[list[Fact], list[Fact]]:
    """The facts of one half of their subjects, drawn at random, and those of the other."""
    subjects = list(dict.fromkeys(fact.subject for fact in facts))
    order = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(seed)).tolist()
    first = {subjects[place] for place in order[: len(subjects) // 2]}
    return (
        [fact for fact in facts if fact.subject in first],
        [fact for fact in facts if fact.subject not in first],
    )


@contextmanager
def _changed(model: Model, sites: Sequence[Site], change: Change) -> Iterator[None]:
    """The model with other matrices, for as long as the context lasts."""
    before = model.snapshot(sites)
    try:
        for site, weight in before.items():
            model.write(site, change(site, at_least_float32(weight)))
        yield
    finally:
        model.restore(before)


def _reduced(unedited: Mapping[Site, Tensor], reduction: Reduction) -> Change:
    """W₀ and a part of the drift."""

    def change(site: Site, weight: Tensor) -> Tensor:
        start = at_least_float32(unedited[site].to(weight.device))
        return start + reduction(weight - start)

    return change


def _without(mask: Mask) -> Change:
    """Zero in place of the entries that the mask removes."""
    return lambda site, weight: weight.masked_fill(mask[site], 0)


@torch.no_grad()
def _lens(model: Model, facts: Sequence[Fact], reader: Reader) -> Measurement:
    """Mean probability of the first token of the old and the new object after every block."""
    sums: dict[str, float] = {}
    for first in range(0, len(facts), _PROMPTS):
        part = facts[first : first + _PROMPTS]
        texts = [reader(fact.statement) for fact in part]
        old = [_tokens(model, text, fact.target_true) for text, fact in zip(texts, part, strict=True)]
        new = [_tokens(model, text, fact.target_new) for text, fact in zip(texts, part, strict=True)]
        ids, mask = (each.to(model.device) for each in pad([prompt for prompt, _ in old]))
        with capture(outputs={layer: model.block(layer) for layer in range(model.depth)}) as states:
            model.hidden(ids, mask)
        at = torch.arange(len(part), device=ids.device), mask.sum(dim=1) - 1
        for layer in range(model.depth):
            said = model.log_probability(states[layer][at]).exp()
            for name, rows in (("old", old), ("new", new)):
                tokens = torch.tensor([target[0] for _, target in rows], device=ids.device)
                key = f"edit/lens/{name}.block.{layer:02d}"
                sums[key] = sums.get(key, 0.0) + float(said.gather(1, tokens[:, None]).double().sum())
    return {key: total / len(facts) for key, total in sums.items()}


def _tokens(model: Model, prompt: str, target: str) -> tuple[Ids, Ids]:
    """The tokens of a prompt, and of the target after it."""
    tokens = tokenize(model.tokenizer, f"{prompt} {target}")
    first = tokens.first_after(len(prompt))
    return tokens.ids[:first], tokens.ids[first:]

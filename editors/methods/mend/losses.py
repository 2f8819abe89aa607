"""What MEND's training asks of an edit: that its prompts give the new object, and that all else stays.

Both are read off one pass with the edited weights as functions of the hypernetwork:
  edit loss      mean of −log P(token) over the new object's tokens, mean over statement and a paraphrase,
  locality loss  KL(before ‖ after), mean over the places of an unrelated text, mean over texts.

Deviation from the published code, which asks the paraphrase alone: where facts are few the statement itself
then ends up less likely than its paraphrases.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from editors.data import SLOT, Fact
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize
from editors.updates import WeightUpdate

Said = Float[Tensor, "_ vocabulary"]
"""Log-probabilities of the next token at the places of one line."""


@dataclass(frozen=True)
class Line:
    """A tokenised text, and the positions at which the model's next token is read."""

    ids: tuple[int, ...]
    places: range

    @property
    def wanted(self) -> list[int]:
        """The tokens that follow the places."""
        return [self.ids[place + 1] for place in self.places]


def continued(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Line:
    """A prompt and its continuation, read where the continuation's tokens are foretold."""
    tokens = tokenize(tokenizer, f"{prompt} {answer}")
    return Line(tokens.ids, range(tokens.first_after(len(prompt)) - 1, len(tokens.ids) - 1))


def ended(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Line:
    """A prompt, read at its end."""
    ids = tokenize(tokenizer, prompt).ids
    return Line(ids, range(len(ids) - 1, len(ids)))


def running(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> Line:
    """The beginning of a running text, read everywhere."""
    ids = tokenize(tokenizer, text).ids[:tokens]
    return Line(ids, range(len(ids)))


def said(model: Model, lines: Sequence[Line], update: WeightUpdate) -> list[Said]:
    """What the model with the update says at the places of every line; differentiable by the update."""
    ids, mask = (value.to(model.device) for value in pad([line.ids for line in lines]))
    hidden = model.hidden_after(update, ids, mask)
    row = [i for i, line in enumerate(lines) for _ in line.places]
    column = [place for line in lines for place in line.places]
    found = model.logits(hidden[row, column]).log_softmax(dim=-1)
    return list(found.split([len(line.places) for line in lines]))


def nll(line: Line, found: Said) -> Float[Tensor, ""]:
    """Mean of −log P over the tokens that follow the line's places."""
    wanted = torch.tensor(line.wanted, device=found.device)
    return -found.gather(1, wanted[:, None]).mean()


def divergence(before: Said, after: Said) -> Float[Tensor, ""]:
    """KL(before ‖ after) in nats, mean over places."""
    return (before.exp() * (before - after)).sum(dim=-1).mean()


def wanted_of(tokenizer: PreTrainedTokenizerBase, fact: Fact, rng: random.Random) -> list[Line]:
    """The new object after the fact's statement, and after one of its paraphrases where it has any."""
    prompts = [fact.statement, *([rng.choice(fact.paraphrases)] if fact.paraphrases else [])]
    return [continued(tokenizer, prompt, fact.target_new) for prompt in prompts]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where unrelated texts come from."""

    facts: Sequence[Fact]
    texts: Sequence[str] = ()
    """Running texts; without any, statements of facts about other subjects stand in."""
    tokens: int = 64
    """Longest running text."""

    def draw(
        self, tokenizer: PreTrainedTokenizerBase, chosen: Sequence[Fact], count: int, rng: random.Random
    ) -> list[Line]:
        """Up to half are near the chosen facts, the others far away.

        Near are their neighbours, their locality prompts, and as many of their own prompts about others:
        a fact's neighbours are few and always the same, so that they alone could be learnt by heart.
        """
        near = [ended(tokenizer, prompt) for fact in chosen for prompt in fact.neighbours]
        near += [ended(tokenizer, prompt) for fact in chosen for prompt in self._elsewhere(fact, rng)]
        near += [continued(tokenizer, *pair) for fact in chosen for pair in fact.locality]
        lines = rng.sample(near, min(len(near), count // 2))
        return lines + [self._far(tokenizer, chosen, rng) for _ in range(count - len(lines))]

    @cached_property
    def subjects(self) -> dict[str, list[str]]:
        """Those of each relation that has a name."""
        found: dict[str, dict[str, None]] = {}
        for fact in self.facts:
            if fact.relation:
                found.setdefault(fact.relation, {})[fact.subject] = None
        return {relation: list(subjects) for relation, subjects in found.items()}

    def _elsewhere(self, fact: Fact, rng: random.Random) -> list[str]:
        """The fact's prompt about other subjects of its relation, as many as it has neighbours."""
        others = self.subjects.get(fact.relation, [])
        drawn = rng.sample(others, min(len(others), len(fact.neighbours)))
        return [fact.prompt.replace(SLOT, other) for other in drawn if other != fact.subject]

    def _far(self, tokenizer: PreTrainedTokenizerBase, chosen: Sequence[Fact], rng: random.Random) -> Line:
        if self.texts:
            return running(tokenizer, rng.choice(self.texts), self.tokens)
        subjects = {fact.subject for fact in chosen}
        while (other := rng.choice(self.facts)).subject in subjects:
            continue
        return ended(tokenizer, other.statement)


@dataclass(frozen=True)
class Trial:
    """An edit to be made, and what the model is asked before and after it."""

    facts: Sequence[Fact]
    asked: Sequence[Line]
    """Where the new objects are wanted; the first is the first fact's statement."""
    kept: Sequence[Line]
    """Unrelated texts."""
    rival: Line | None = None
    """The true object after the statement, in a validation."""

    @property
    def lines(self) -> list[Line]:
        """All that is asked after the edit."""
        return [*self.asked, *self.kept, *([self.rival] if self.rival else [])]


@dataclass(frozen=True)
class Answers:
    """What the model says in a trial."""

    trial: Trial
    before: Sequence[Said]
    """At what should be kept."""
    after: Sequence[Said]
    """At all lines."""

    def losses(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Edit and locality loss."""
        edit = [nll(line, found) for line, found in zip(self.trial.asked, self.after, strict=False)]
        locality = [divergence(before, after) for before, after in self._kept()]
        return torch.stack(edit).mean(), torch.stack(locality).mean()

    def figures(self) -> dict[str, float]:
        """Those of a validation, of the first fact."""
        edit, locality = self.losses()
        first, asked = self.trial.asked[0], self.after[0]
        accuracy = float(asked.argmax(dim=-1).tolist() == first.wanted)
        rival = self.trial.rival
        unchanged = [float(torch.equal(b.argmax(dim=-1), a.argmax(dim=-1))) for b, a in self._kept()]
        return {
            "edit_loss": float(edit),
            "locality_loss": float(locality),
            "success": float(nll(first, asked) < nll(rival, self.after[-1])) if rival else accuracy,
            "accuracy": accuracy,
            "locality": sum(unchanged) / len(unchanged),
        }

    def _kept(self) -> list[tuple[Said, Said]]:
        """Before and after, of each unrelated text."""
        return list(zip(self.before, self.after[len(self.trial.asked) :], strict=False))

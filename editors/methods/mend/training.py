"""Training of MEND's hypernetwork: Adam on c_edit · edit loss + c_loc · locality loss of single edits.

Every step takes the mean gradient over some edits of facts drawn at random. Each is made from the model as it
is: one pass gives the pulls, the hypernetwork the update, and a pass with the updated weights the two losses
(`mend_losses.py`), so that the gradient runs back through the update. The weights are never touched. What a
step draws depends on the seed and its number alone, so that a training that goes on from its checkpoint is
bit for bit the one that was not interrupted.

Source: eric-mitchell/mend `trainer.py`, `algs/mend.py` (arXiv 2110.11309). Deviations: means and deviations
start from a pass over some facts rather than from the first token, and the best network of all validations is
the result.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from editors.data import Fact
from editors.errors import DataError, NumericsError
from editors.methods.mend.files import flattened, load_flattened, read_checkpoint, write_checkpoint
from editors.methods.mend.losses import Answers, Surroundings, Trial, continued, said, wanted_of
from editors.methods.mend.network import Hypernetwork
from editors.methods.mend.settings import Training
from editors.models.gradients import Pull, read_targets
from editors.models.model import Model
from editors.updates import Site

Numbers = dict[str, float]
Loss = TypeVar("Loss", float, Tensor)
TOTAL = "mend/loss/validation"
"""What decides which network is best."""


@dataclass(frozen=True)
class Best:
    """The best validation so far."""

    step: int
    numbers: Numbers
    state: Mapping[str, Tensor]


class Trainer:
    """Trains one hypernetwork on one model; `run` does it, and leaves the best network in place."""

    def __init__(
        self,
        model: Model,
        network: Hypernetwork,
        training: Training,
        facts: Sequence[Fact],
        validation: Sequence[Fact],
        texts: Sequence[str] = (),
    ) -> None:
        subjects = {fact.subject for fact in facts}
        if len(subjects) < 2 or not validation:
            raise DataError("training needs facts of at least two subjects, and others to validate on")
        shared = sorted(subjects & {fact.subject for fact in validation})
        if shared:
            raise DataError(f"facts of {shared[0]} are both trained on and held out; split them by subject")
        self.model, self.network, self.training = model, network.to(model.device), training
        self.facts, self.held_out = facts, validation[: training.validation]
        self.near = Surroundings(facts=facts, texts=texts)
        self.near_held_out = Surroundings(facts=[*self.held_out, *facts], texts=texts)
        self.objects: dict[str, set[str]] = {}
        for fact in facts:
            if fact.relation:
                self.objects.setdefault(fact.relation, set()).add(fact.target_new)
        self.sites = list(network.shapes)
        self.step = 0
        self.best: Best | None = None
        self.adam = torch.optim.Adam(
            [
                {"params": network.networks(), "lr": training.learning_rate},
                {"params": [network.step_sizes], "lr": training.step_size_rate},
            ]
        )

    @property
    def ended(self) -> bool:
        """Whether all steps are done, or too many since the best."""
        waited = self.step - self.best.step if self.best else 0
        return self.step >= self.training.steps or waited >= self.training.patience

    def run(self, checkpoint: Path | None = None) -> Iterator[tuple[int, Numbers]]:
        """Every step's number and losses; at a validation its figures too.

        Goes on from the checkpoint where there is one, and writes it at every validation.

        Raises:
            NumericsError: for a loss that is NaN or infinite.
            DataError: for a checkpoint that is not of this training.
        """
        if checkpoint is not None and checkpoint.is_file():
            self.restore(checkpoint)
        else:
            self._calibrate()
        while not self.ended:
            self.step += 1
            numbers = self._step()
            if self.step % self.training.validate_every == 0 or self.step == self.training.steps:
                numbers |= self.validate()
                self._keep(numbers)
                if checkpoint is not None:
                    self.save(checkpoint)
            yield self.step, numbers
        if self.best is not None:
            self.network.load_state_dict(dict(self.best.state))
        self.network.eval()

    @torch.no_grad()
    def validate(self) -> Numbers:
        """Means over single edits of held-out facts.

        success     P(new) > P(true) after the prompt, or `accuracy` where there is no true object
        accuracy    every token of the new object is the first choice
        locality    share of unrelated prompts and texts whose first choices are all unchanged
        """
        self.network.eval()
        rows = [row for chunk in self._chunks(self.held_out) for row in self._validated(chunk)]
        numbers = {f"mend/{name}/validation": sum(r[name] for r in rows) / len(rows) for name in rows[0]}
        return numbers | {TOTAL: self._total(*(numbers[f"mend/{name}/validation"] for name in _LOSSES))}

    def save(self, path: Path) -> None:
        """Write all that continuing needs: network, optimiser, step, best."""
        groups = {"network": self.network.state_dict(), "adam": flattened(self.adam)}
        about: dict[str, object] = {"step": self.step, "best": None}
        if self.best is not None:
            groups["best"] = self.best.state
            about["best"] = {"step": self.best.step, "numbers": self.best.numbers}
        write_checkpoint(path, groups, about | {"training": asdict(self.training)})

    def restore(self, path: Path) -> None:
        """Go on where `save` was called.

        Raises:
            DataError: for a file that is none, or is of another training.
        """
        groups, about = read_checkpoint(path, self.model.device)
        if about["training"] != asdict(self.training):
            raise DataError(f"{path} is of a training with other settings; delete it to begin anew")
        self.network.load_state_dict(groups["network"])
        load_flattened(self.adam, groups["adam"])
        self.step, best = about["step"], about["best"]
        self.best = best and Best(best["step"], best["numbers"], groups["best"])

    def _calibrate(self) -> None:
        rng = random.Random(f"{self.training.seed}/calibration")
        facts = rng.sample(self.facts, min(len(self.facts), self.training.calibration))
        for chunk in self._chunks(facts):
            for pulls in self._pulls(chunk):
                self.network.observe(pulls)

    def _step(self) -> Numbers:
        """One optimiser step; its losses, mean over its edits."""
        rng, settings = random.Random(f"{self.training.seed}/{self.step}"), self.training
        trials = [self._trial(self._drawn(rng), self.near, rng) for _ in range(settings.accumulate)]
        self.network.train()
        self.adam.zero_grad()
        sums = torch.zeros(2)
        for answers in self._answers(trials):
            edit, locality = answers.losses()
            (self._total(edit, locality) / settings.accumulate).backward()
            sums += torch.stack([edit, locality]).detach().cpu() / settings.accumulate
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        if not (sums.isfinite().all() and norm.isfinite()):
            raise NumericsError(
                f"step {self.step} of the training has the losses {sums.tolist()} and a gradient of norm "
                f"{float(norm)}; lower editor.training.learning_rate or step_size_rate"
            )
        self._rate()
        self.adam.step()
        losses = {f"mend/{name}/training": float(value) for name, value in zip(_LOSSES, sums, strict=True)}
        return losses | {"mend/gradient_norm/training": float(norm)}

    def _rate(self) -> None:
        """Set both rates to those of this step."""
        left = (self.training.steps - self.step + 1) / (self.training.cooldown or 1)
        rates = (self.training.learning_rate, self.training.step_size_rate)
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, left)

    def _drawn(self, rng: random.Random) -> list[Fact]:
        """The facts of one edit, some with another object."""
        swap, size = self.training.swap, min(len(self.facts), self.training.facts_at_once)
        chosen = rng.sample(self.facts, size)
        return [self._swapped(fact, rng) if swap and rng.random() < swap else fact for fact in chosen]

    def _swapped(self, fact: Fact, rng: random.Random) -> Fact:
        """Where the relation is not known, or has no other object, the fact itself."""
        objects = sorted(self.objects.get(fact.relation, set()) - {fact.target_true})
        return replace(fact, target_new=rng.choice(objects)) if objects else fact

    def _trial(self, facts: Sequence[Fact], near: Surroundings, rng: random.Random) -> Trial:
        tokenizer = self.model.tokenizer
        asked = [line for fact in facts for line in wanted_of(tokenizer, fact, rng)]
        return Trial(facts, asked, near.draw(tokenizer, facts, self.training.unrelated, rng))

    def _answers(self, trials: Sequence[Trial]) -> Iterator[Answers]:
        """What the model says in each trial, before its edit and after it.

        Pulls, and what was said before, are found in one pass for all trials: none depends on the others.
        """
        pulls = iter(self._pulls([fact for trial in trials for fact in trial.facts]))
        with torch.no_grad():
            before = iter(said(self.model, [line for trial in trials for line in trial.kept], {}))
        for trial in trials:
            update = self.network.update(_joined([next(pulls) for _ in trial.facts]))
            yield Answers(trial, [next(before) for _ in trial.kept], said(self.model, trial.lines, update))

    @torch.enable_grad()
    def _pulls(self, facts: Sequence[Fact]) -> list[dict[Site, Pull]]:
        """Those of each fact; in a sum of losses no fact's gradient depends on the others."""
        reading = read_targets(self.model, facts, "teacher_forced", min(site.layer for site in self.sites))
        evaluation = reading.evaluate(self.sites)
        pulls = evaluation.pulls((evaluation.losses / reading.lengths).sum())
        tokens = reading.real.sum(dim=1).tolist()
        parts = {
            site: zip(pull.keys.split(tokens), pull.gradients.split(tokens), strict=True)
            for site, pull in pulls.items()
        }
        return [{site: Pull(*next(part)) for site, part in parts.items()} for _ in facts]

    def _chunks(self, facts: Sequence[Fact]) -> list[Sequence[Fact]]:
        size = self.training.accumulate
        return [facts[first : first + size] for first in range(0, len(facts), size)]

    def _validated(self, facts: Sequence[Fact]) -> Iterator[Numbers]:
        """Figures of single edits; what each is asked is the same at every validation."""
        tokenizer, trials = self.model.tokenizer, list[Trial]()
        for fact in facts:
            trial = self._trial([fact], self.near_held_out, random.Random(f"{self.training.seed}/{fact.id}"))
            true = fact.target_true
            trials.append(replace(trial, rival=continued(tokenizer, fact.statement, true) if true else None))
        return (answers.figures() for answers in self._answers(trials))

    def _total(self, edit: Loss, locality: Loss) -> Loss:
        return self.training.edit_weight * edit + self.training.locality_weight * locality

    def _keep(self, numbers: Numbers) -> None:
        if self.best is None or numbers[TOTAL] < self.best.numbers[TOTAL]:
            state = {key: value.clone() for key, value in self.network.state_dict().items()}
            self.best = Best(self.step, numbers, state)


_LOSSES = ("edit_loss", "locality_loss")


def _joined(pulls: Sequence[Mapping[Site, Pull]]) -> dict[Site, Pull]:
    """The tokens of several facts together."""
    found = {}
    for site in pulls[0]:
        keys = torch.cat([each[site].keys for each in pulls])
        found[site] = Pull(keys, torch.cat([each[site].gradients for each in pulls]))
    return found

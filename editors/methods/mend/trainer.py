"""Training of MEND's hypernetwork: Adam on c_edit · edit loss + c_loc · locality loss of single edits.

Every step takes the mean gradient over edits of randomly drawn facts. Each edit starts from the unchanged
model: one pass gives the gradients, the hypernetwork the update, and a pass with the updated weights the two
losses (`losses.py`), so that the gradient flows back through the update. The weights are never touched. The
draws of a step depend on the seed and the step's number alone: a training resumed from its checkpoint equals
an uninterrupted one bit for bit.

Source: eric-mitchell/mend `trainer.py`, `algs/mend.py` (arXiv 2110.11309). Deviations: means and deviations
are initialised by a pass over some facts rather than by the first token, and the result is the best network
of all validations.
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
from editors.methods.mend.files import flat_state, load_flat_state, read_checkpoint, write_checkpoint
from editors.methods.mend.losses import (
    EditTrial,
    TrialResult,
    UnrelatedTexts,
    continuation_query,
    edit_queries,
    log_probabilities,
)
from editors.methods.mend.network import Hypernetwork
from editors.methods.mend.settings import Training
from editors.models.gradients import TokenGradients, read_targets
from editors.models.model import Model
from editors.updates import Site

Numbers = dict[str, float]
Loss = TypeVar("Loss", float, Tensor)
TOTAL = "mend/loss/validation"
"""The figure that decides which network is best; lower is better."""


@dataclass(frozen=True)
class Best:
    """The best validation so far."""

    step: int
    numbers: Numbers
    state: Mapping[str, Tensor]


class Trainer:
    """Trains one hypernetwork on one model; after `run` the network holds the best parameters."""

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
        self.unrelated = UnrelatedTexts(facts=facts, texts=texts)
        self.unrelated_held_out = UnrelatedTexts(facts=[*self.held_out, *facts], texts=texts)
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
        """Whether all steps are done, or `patience` steps passed without a better validation."""
        since_best = self.step - self.best.step if self.best else 0
        return self.step >= self.training.steps or since_best >= self.training.patience

    def run(self, checkpoint: Path | None = None) -> Iterator[tuple[int, Numbers]]:
        """Yield every step's number and losses, with the figures of its validation if it has one.

        Resumes from the checkpoint if there is one, and writes it at every validation.

        Raises:
            NumericsError: for a loss that is NaN or infinite.
            DataError: for a checkpoint of another training.
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
                self._update_best(numbers)
                if checkpoint is not None:
                    self.save(checkpoint)
            yield self.step, numbers
        if self.best is not None:
            self.network.load_state_dict(dict(self.best.state))
        self.network.eval()

    @torch.no_grad()
    def validate(self) -> Numbers:
        """Means over single edits of held-out facts.

        success     P(new) > P(true) after the prompt, or `accuracy` for facts without a true object
        accuracy    every token of the new object is the first choice
        locality    share of unrelated prompts and texts whose first choices are all unchanged
        """
        self.network.eval()
        rows = [row for chunk in self._chunks(self.held_out) for row in self._validated(chunk)]
        numbers = {f"mend/{name}/validation": sum(r[name] for r in rows) / len(rows) for name in rows[0]}
        return numbers | {TOTAL: self._total(*(numbers[f"mend/{name}/validation"] for name in _LOSSES))}

    def save(self, path: Path) -> None:
        """Write everything needed to continue: network, optimiser, step and best validation."""
        groups = {"network": self.network.state_dict(), "adam": flat_state(self.adam)}
        metadata: dict[str, object] = {"step": self.step, "best": None}
        if self.best is not None:
            groups["best"] = self.best.state
            metadata["best"] = {"step": self.best.step, "numbers": self.best.numbers}
        write_checkpoint(path, groups, metadata | {"training": asdict(self.training)})

    def restore(self, path: Path) -> None:
        """Continue from the state that `save` wrote.

        Raises:
            DataError: for a file that is no checkpoint, or one of another training.
        """
        groups, metadata = read_checkpoint(path, self.model.device)
        if metadata["training"] != asdict(self.training):
            raise DataError(f"{path} is of a training with other settings; delete it to start again")
        self.network.load_state_dict(groups["network"])
        load_flat_state(self.adam, groups["adam"])
        self.step, best = metadata["step"], metadata["best"]
        self.best = best and Best(best["step"], best["numbers"], groups["best"])

    def _calibrate(self) -> None:
        rng = random.Random(f"{self.training.seed}/calibration")
        facts = rng.sample(self.facts, min(len(self.facts), self.training.calibration))
        for chunk in self._chunks(facts):
            for gradients in self._gradients(chunk):
                self.network.observe(gradients)

    def _step(self) -> Numbers:
        """Take one optimiser step; returns its losses, mean over its edits."""
        rng, settings = random.Random(f"{self.training.seed}/{self.step}"), self.training
        trials = [self._trial(self._sample(rng), self.unrelated, rng) for _ in range(settings.accumulate)]
        self.network.train()
        self.adam.zero_grad()
        sums = torch.zeros(2)
        for result in self._results(trials):
            edit, locality = result.losses()
            (self._total(edit, locality) / settings.accumulate).backward()
            sums += torch.stack([edit, locality]).detach().cpu() / settings.accumulate
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        if not (sums.isfinite().all() and norm.isfinite()):
            raise NumericsError(
                f"step {self.step} of the training has the losses {sums.tolist()} and a gradient of norm "
                f"{float(norm)}; lower editor.training.learning_rate or step_size_rate"
            )
        self._set_rates()
        self.adam.step()
        losses = {f"mend/{name}/training": float(value) for name, value in zip(_LOSSES, sums, strict=True)}
        return losses | {"mend/gradient_norm/training": float(norm)}

    def _set_rates(self) -> None:
        """Set both learning rates for this step."""
        left = (self.training.steps - self.step + 1) / (self.training.cooldown or 1)
        rates = (self.training.learning_rate, self.training.step_size_rate)
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, left)

    def _sample(self, rng: random.Random) -> list[Fact]:
        """Random facts for one edit, some with another object."""
        swap, size = self.training.swap, min(len(self.facts), self.training.facts_at_once)
        facts = rng.sample(self.facts, size)
        return [self._swapped(fact, rng) if swap and rng.random() < swap else fact for fact in facts]

    def _swapped(self, fact: Fact, rng: random.Random) -> Fact:
        """The fact with another object of its relation; unchanged if there is none."""
        objects = sorted(self.objects.get(fact.relation, set()) - {fact.target_true})
        return replace(fact, target_new=rng.choice(objects)) if objects else fact

    def _trial(self, facts: Sequence[Fact], unrelated: UnrelatedTexts, rng: random.Random) -> EditTrial:
        tokenizer = self.model.tokenizer
        edited = [query for fact in facts for query in edit_queries(tokenizer, fact, rng)]
        return EditTrial(facts, edited, unrelated.draw(tokenizer, facts, self.training.unrelated, rng))

    def _results(self, trials: Sequence[EditTrial]) -> Iterator[TrialResult]:
        """The model's predictions in each trial, before and after its edit.

        The gradients and the predictions before come from one pass over all trials, which are independent.
        """
        gradients = iter(self._gradients([fact for trial in trials for fact in trial.facts]))
        with torch.no_grad():
            unrelated = [query for trial in trials for query in trial.unrelated]
            before = iter(log_probabilities(self.model, unrelated, {}))
        for trial in trials:
            update = self.network.update(_concatenated([next(gradients) for _ in trial.facts]))
            after = log_probabilities(self.model, trial.queries, update)
            yield TrialResult(trial, [next(before) for _ in trial.unrelated], after)

    @torch.enable_grad()
    def _gradients(self, facts: Sequence[Fact]) -> list[dict[Site, TokenGradients]]:
        """The gradients of each fact; in a sum of losses no fact's gradient depends on the others."""
        reading = read_targets(self.model, facts, "teacher_forced", min(site.layer for site in self.sites))
        evaluation = reading.evaluate(self.sites)
        gradients = evaluation.gradients((evaluation.losses / reading.lengths).sum())
        tokens = reading.real.sum(dim=1).tolist()
        parts = {
            site: zip(matrix.keys.split(tokens), matrix.outputs.split(tokens), strict=True)
            for site, matrix in gradients.items()
        }
        return [{site: TokenGradients(*next(part)) for site, part in parts.items()} for _ in facts]

    def _chunks(self, facts: Sequence[Fact]) -> list[Sequence[Fact]]:
        size = self.training.accumulate
        return [facts[first : first + size] for first in range(0, len(facts), size)]

    def _validated(self, facts: Sequence[Fact]) -> Iterator[Numbers]:
        """Figures of single edits; the queries of a fact are the same at every validation."""
        tokenizer, trials = self.model.tokenizer, list[EditTrial]()
        for fact in facts:
            trial = self._trial(
                [fact], self.unrelated_held_out, random.Random(f"{self.training.seed}/{fact.id}")
            )
            true = fact.target_true
            trials.append(
                replace(trial, rival=continuation_query(tokenizer, fact.statement, true) if true else None)
            )
        return (result.figures() for result in self._results(trials))

    def _total(self, edit: Loss, locality: Loss) -> Loss:
        return self.training.edit_weight * edit + self.training.locality_weight * locality

    def _update_best(self, numbers: Numbers) -> None:
        if self.best is None or numbers[TOTAL] < self.best.numbers[TOTAL]:
            state = {key: value.clone() for key, value in self.network.state_dict().items()}
            self.best = Best(self.step, numbers, state)


_LOSSES = ("edit_loss", "locality_loss")


def _concatenated(facts: Sequence[Mapping[Site, TokenGradients]]) -> dict[Site, TokenGradients]:
    """The tokens of several facts together."""
    return {
        site: TokenGradients(
            torch.cat([fact[site].keys for fact in facts]), torch.cat([fact[site].outputs for fact in facts])
        )
        for site in facts[0]
    }

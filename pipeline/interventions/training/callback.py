"""The Trainer callback that measures a model while it is trained."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from editors.errors import NumericsError
from pipeline.interventions import distributed as processes
from pipeline.interventions.base import Change, Part, StepObserver
from pipeline.interventions.training.trainees import Trainee
from pipeline.runs.checkpoint_store import PREFIX

_WAY_OUT = (
    "lower intervention.learning_rate, give it a longer intervention.warmup, or train in float32; "
    "earlier measurements are kept"
)


class MeasureCallback(TrainerCallback):
    """Reports every optimiser step to the observer, which also completes the checkpoints."""

    def __init__(
        self, *, trainee: Trainee, part: Part, observer: StepObserver, begun: int, sharded: bool
    ) -> None:
        self.trainee, self.part, self.observer = trainee, part, observer
        self.step, self.tokens = begun, 0
        self._copy = copy.deepcopy(trainee) if sharded else None
        """A copy into which sharded weights are gathered to be measured."""
        self._since = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count from the step at which an interrupted training stopped."""
        self.tokens = state.num_input_tokens_seen
        self._since = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Measure after an optimiser step; a log without a loss, at the end of a training, is ignored."""
        if logs is None or "loss" not in logs:
            return
        seconds = time.perf_counter() - self._since
        continues = self._look(state, logs, seconds)
        continues, pending = processes.agreed((continues, self.observer.requests.pending))
        if not continues:
            # a run resumed from a checkpoint saved here would continue past the stop
            control.should_training_stop, control.should_save = True, False
        elif pending:
            control.should_save = True
        self._since = time.perf_counter()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Complete the checkpoint of weights and optimiser; leave if a signal requested it."""
        processes.meet()  # every process has written its share
        self.observer.save(Path(str(args.output_dir)) / f"{PREFIX}{state.global_step}")
        requests = self.observer.requests
        requests.leave = processes.agreed(requests.leave)
        requests.answered()

    def _look(self, state: TrainerState, logs: dict[str, float], seconds: float) -> bool:
        _check(logs["loss"], state.global_step, self.part.name)
        tokens = state.num_input_tokens_seen - self.tokens
        numbers = {
            "train/loss/step": logs["loss"],
            "train/learning_rate/step": logs["learning_rate"],
            "train/gradient_norm/step": logs.get("grad_norm", math.nan),
            "train/tokens/step": tokens,
        }
        change = Change(
            steps=state.global_step - self.step, tokens=tokens, seconds={"train": seconds}, numbers=numbers
        )
        self.step, self.tokens = state.global_step, state.num_input_tokens_seen
        if self._copy is None:
            return self._show(self.trainee, change)
        # gathering weights takes long, and only stages read them
        if self.observer.due(self.part, state.global_step):
            _gather(self.trainee.module, self._copy.module)
        return self._show(self._copy, change)

    def _show(self, trainee: Trainee, change: Change) -> bool:
        try:
            with evaluating(trainee):
                numbers = {**change.numbers, **trainee.numbers()}
                return self.observer.look(trainee.model, self.part, replace(change, numbers=numbers))
        except NumericsError as error:
            raise NumericsError(
                f"{self.part.name} at optimiser step {self.step}: {error}; {_WAY_OUT}"
            ) from error


class NoGradient(TrainerCallback):
    """Sets every gradient to zero before the optimiser reads it."""

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Called between the clipping of the gradient and the step."""
        assert model is not None
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()


@contextmanager
def evaluating(trainee: Trainee) -> Iterator[None]:
    """Inside, the model is an ordinary one in evaluation mode; afterwards training continues."""
    trainee.model.was_trained()
    trainee.module.eval()
    try:
        with trainee.plain():
            yield
    finally:
        trainee.module.train()


def _check(loss: float, step: int, name: str) -> None:
    if not math.isfinite(loss):
        raise NumericsError(f"the loss of {name} is {loss} at optimiser step {step}: {_WAY_OUT}")


@torch.no_grad()
def _gather(spread: nn.Module, whole: nn.Module) -> None:
    """Copy parameters that are sharded over several processes into a whole model, one after another."""
    targets = dict(whole.named_parameters())
    for name, parameter in spread.named_parameters():
        gathered = getattr(parameter, "full_tensor", lambda parameter=parameter: parameter)()
        targets[name].copy_(gathered)

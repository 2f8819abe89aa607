"""The Trainer callback through which a run looks at a model while it is trained."""

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
    "what was measured before is kept"
)


class MeasureCallback(TrainerCallback):
    """Tells the observer of every optimiser step, and lets it complete checkpoints."""

    def __init__(
        self, *, trainee: Trainee, part: Part, observer: StepObserver, begun: int, sharded: bool
    ) -> None:
        self.trainee, self.part, self.observer = trainee, part, observer
        self.step, self.tokens = begun, 0
        self._copy = copy.deepcopy(trainee) if sharded else None
        """Where weights that lie in pieces in several processes are put together to be measured."""
        self._since = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count from where an interrupted training stopped."""
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
        """After every optimiser step; the summary at the end of a training is not one."""
        if logs is None or "loss" not in logs:
            return
        seconds = time.perf_counter() - self._since
        go = self._look(state, logs, seconds)
        go, pending = processes.agreed((go, self.observer.requests.pending))
        if not go:
            # a checkpoint from here would go on with what was stopped
            control.should_training_stop, control.should_save = True, False
        elif pending:
            control.should_save = True
        self._since = time.perf_counter()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The weights and the optimiser were written: complete the state; leave where that was asked for."""
        processes.meet()  # all have written their part of it
        self.observer.save(Path(str(args.output_dir)) / f"{PREFIX}{state.global_step}")
        requests = self.observer.requests
        requests.leave = processes.agreed(requests.leave)
        requests.answered()

    def _look(self, state: TrainerState, logs: dict[str, float], seconds: float) -> bool:
        _check(logs["loss"], state.global_step, self.part.name)
        tokens = state.num_input_tokens_seen - self.tokens
        told = {
            "train/loss/step": logs["loss"],
            "train/learning_rate/step": logs["learning_rate"],
            "train/gradient_norm/step": logs.get("grad_norm", math.nan),
            "train/tokens/step": tokens,
        }
        change = Change(
            steps=state.global_step - self.step, tokens=tokens, seconds={"train": seconds}, numbers=told
        )
        self.step, self.tokens = state.global_step, state.num_input_tokens_seen
        if self._copy is None:
            return self._show(self.trainee, change)
        # gathering weights takes long, and only a stage reads them
        if self.observer.due(self.part, state.global_step):
            _gather(self.trainee.module, self._copy.module)
        return self._show(self._copy, change)

    def _show(self, trainee: Trainee, change: Change) -> bool:
        try:
            with evaluating(trainee):
                told = {**change.numbers, **trainee.numbers()}
                return self.observer.look(trainee.model, self.part, replace(change, numbers=told))
        except NumericsError as error:
            raise NumericsError(
                f"{self.part.name} at optimiser step {self.step}: {error}; {_WAY_OUT}"
            ) from error


@contextmanager
def evaluating(trainee: Trainee) -> Iterator[None]:
    """The model as an ordinary one, in evaluation mode; afterwards it is being trained again."""
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
    """Copy parameters that lie in pieces in several processes into a whole model, one after the other."""
    targets = dict(whole.named_parameters())
    for name, parameter in spread.named_parameters():
        gathered = getattr(parameter, "full_tensor", lambda parameter=parameter: parameter)()
        targets[name].copy_(gathered)

"""Training as an intervention, on transformers' Trainer.

Continual pretraining, full fine-tuning and LoRA are three configurations of it (`conf/intervention`).
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from editors.errors import ConfigError
from editors.models.model import Model
from pipeline.data.factset import FactSet
from pipeline.interventions import distributed as processes
from pipeline.interventions.base import Intervention, Part, Plan, StepObserver
from pipeline.interventions.training.callback import MeasureCallback, NoGradient, evaluating
from pipeline.interventions.training.examples import Examples, collate
from pipeline.interventions.training.optimizer import Optimizer
from pipeline.interventions.training.saved_states import only_tensors
from pipeline.interventions.training.trainees import Trained, Trainee
from pipeline.interventions.training.training_memory import check_memory

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "inverse_sqrt"]
Precision = Literal["full", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Training(Intervention):
    """Trains a model for a number of optimiser steps."""

    name: str
    examples: Examples
    """The training examples."""
    trained: Trained
    """The trained weights."""
    steps: int
    """Optimiser steps; examples are read again if there are too few."""
    optimizer: Optimizer
    learning_rate: float
    """The highest learning rate, chosen for AdamW; other optimisers multiply it by their `rate_factor`."""
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup: int = 0
    """Steps over which the learning rate rises to its highest."""
    batch_size: int = 8
    """Examples per forward pass, in each process."""
    accumulation: int = 1
    """Forward passes per optimiser step."""
    clip: float = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""
    gradient: bool = True
    """False sets every gradient to zero, so that weight decay acts alone: a control of what training does."""
    precision: Precision = "full"
    """`full` computes in the precision of the weights, the others in mixed precision."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of blocks for the gradient, and recompute the rest: less memory, more time."""
    sharding: dict[str, Any] | None = None
    """FSDP over the processes of torchrun: transformers' `fsdp_config`; null keeps a copy in each."""
    save_every: int = 500
    """Steps between two checkpoints; 0 saves none."""
    check_memory: bool = True
    """Whether to refuse a training that will not fit by the estimate."""
    seed: int = 0
    """Seed of the order of the examples and of dropout."""

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "accumulation", "learning_rate"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"intervention.{key}={getattr(self, key)}, but it has to be positive")
        for key in ("weight_decay", "warmup", "clip", "save_every"):
            if getattr(self, key) < 0:
                raise ConfigError(f"intervention.{key}={getattr(self, key)}, but it cannot be negative")
        if self.warmup and self.schedule == "constant":
            raise ConfigError(
                f"intervention.warmup={self.warmup}, but a constant schedule has none: "
                "set intervention.schedule=constant_with_warmup"
            )

    @property
    def shared(self) -> bool:
        """Always true: several processes can train together."""
        return True

    @property
    def _is_sharded(self) -> bool:
        return self.sharding is not None and processes.count() > 1

    def plan(self, facts: FactSet) -> Plan:
        """A plan without edits."""
        return Plan(untouched=facts.facts)

    def check(self, model: Model, plan: Plan) -> None:
        """Raise a ConfigError or DataError for missing blocks, matrices and examples, before training."""
        if self.precision == "float16" and model.device.type == "cpu":
            raise ConfigError("intervention.precision=float16 needs a GPU: choose bfloat16 or full")
        self.trained.check(model)
        self._load(model)
        if self.sharding is not None and processes.count() == 1:
            log.warning(
                "sharding is for several processes: this one keeps all weights (start it with torchrun)"
            )

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Train until the last step or the observer returns False; then the model is an ordinary one."""
        examples = self._load(model)
        trainee = self.trained.begin(model)
        try:
            self._train(trainee, examples, observer)
        except BaseException:
            trainee.give_up()
            raise
        else:
            trainee.end(observer.folder / "adapter" / observer.checkpoints.name)
        finally:
            model.hf.eval().requires_grad_(False)
            model.was_trained()

    def _train(self, trainee: Trainee, examples: "Dataset", observer: StepObserver) -> None:
        if self.check_memory:
            check_memory(trainee, examples, self)
        part = Part(name=self.name, unit="steps", total=self.steps, edited=trainee.sites)
        saved = observer.resumed
        resumed = saved.checkpoint if saved else None
        if resumed is None:
            with evaluating(trainee):
                if not processes.agreed(observer.look(trainee.model, part)):
                    return
        callback = MeasureCallback(
            trainee=trainee,
            part=part,
            observer=observer,
            begun=_steps_of(resumed) if resumed else 0,
            sharded=self._is_sharded,
        )
        trainer = self._trainer(trainee, examples, callback, observer.checkpoints)
        with only_tensors(resumed):
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)

    def _load(self, model: Model) -> "Dataset":
        return self.examples.load(model, self.steps * self.batch_size * self.accumulation * processes.count())

    def _trainer(
        self, trainee: Trainee, examples: "Dataset", callback: MeasureCallback, folder: Path
    ) -> Trainer:
        trainer = Trainer(
            model=trainee.module,  # pyright: ignore[reportArgumentType] - a PeftModel is one to it
            args=self._arguments(folder, trainee.model.device),
            train_dataset=examples,
            data_collator=collate,
            callbacks=[callback, *([] if self.gradient else [NoGradient()])],
            optimizer_cls_and_kwargs=(self.optimizer.cls, self.optimizer.arguments(self.learning_rate)),
        )
        for printing in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printing)
        return trainer

    def _arguments(self, folder: Path, device: torch.device) -> TrainingArguments:
        try:
            arguments = TrainingArguments(
                output_dir=str(folder),
                max_steps=self.steps,
                per_device_train_batch_size=self.batch_size,
                gradient_accumulation_steps=self.accumulation,
                learning_rate=self.learning_rate * self.optimizer.rate_factor,
                lr_scheduler_type=self.schedule,
                warmup_steps=self.warmup,
                weight_decay=self.weight_decay,
                max_grad_norm=self.clip,
                bf16=self.precision == "bfloat16",
                fp16=self.precision == "float16",
                activation_checkpointing=self.gradient_checkpointing,
                fsdp=self._is_sharded,  # pyright: ignore[reportArgumentType] - a flag since transformers 5
                fsdp_config=dict(self.sharding or {}),
                seed=self.seed,
                data_seed=self.seed,
                use_cpu=device.type == "cpu",
                save_strategy="steps" if self.save_every else "no",
                save_steps=self.save_every or 1,
                save_total_limit=2,  # the last one may be incomplete
                logging_steps=1,
                logging_nan_inf_filter=False,  # it would hide a loss that is not finite
                ddp_find_unused_parameters=False,
                include_num_input_tokens_seen="non_padding",
                remove_unused_columns=False,
                disable_tqdm=True,
                report_to=[],
            )
        except ValueError as error:
            raise ConfigError(f"the training cannot be set up: {error}") from error
        if arguments.n_gpu > 1:
            arguments._n_gpu = (
                1  # without torchrun one device trains; torch's DataParallel would copy the model
            )
        return arguments


def _steps_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])

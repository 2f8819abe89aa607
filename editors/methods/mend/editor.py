"""MEND: a trained hypernetwork turns one gradient of a fact into an update of several matrices.

For every named matrix, x are its inputs and δ the gradients of the loss by its outputs, at every token of
prompt and target; the loss of a fact is the mean over its target tokens of −log P(token). The hypernetwork
(`network.py`) maps each token to x̃ and δ̃, and Δ = α Σ δ̃ x̃ᵀ has at most the rank of the number of tokens.
It has to be trained first, on facts about other subjects (`trainer.py`).

Source: Mitchell et al. 2022 (arXiv 2110.11309); eric-mitchell/mend and kmeng01/rome `baselines/mend`.
Deviation: the loss of a batch is the sum over its facts and not a mean over all target tokens, so that the
update of a batch is the sum of the updates of its single facts.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from filelock import FileLock, Timeout

from editors.base import Cause, Edit
from editors.data import Fact
from editors.disk import remove_parts
from editors.errors import ConfigError
from editors.methods.gradient_editor import GradientEditor
from editors.methods.mend.files import Origin, load_for, name_of, save, shapes_of
from editors.methods.mend.network import Design, Hypernetwork
from editors.methods.mend.settings import Training
from editors.methods.mend.trainer import Numbers, Trainer
from editors.models.gradients import read_targets
from editors.models.model import Model
from editors.phases import Report, silent
from editors.text_files import local_path
from editors.updates import Site, sites_of

SHIPPED = Path(__file__).parent / "hypernetworks"
"""Hypernetworks shipped with the package, named as in `folder`."""


@dataclass(kw_only=True)
class MEND(GradientEditor):
    """A hypernetwork maps gradients of the facts to updates; edits are counted and otherwise forgotten."""

    layers: Sequence[int]
    """Edited blocks; the last one may be among them."""
    matrices: Sequence[str] = ("mlp_up", "mlp_down")
    """Edited matrices of each block; their order is that of the hypernetwork's step sizes."""
    rank: int = 1920
    """Rank of the hypernetwork's factors."""
    shared: bool = True
    """Whether matrices of equal shape share a network."""
    combine: bool = True
    """Whether one network reads inputs and gradients together."""
    step_size: float = 1e-4
    """Every matrix's α before training; a negative one descends the gradient."""
    path: str | None = None
    """File of the hypernetwork, ours (.safetensors) or the published code's (.pt); null looks in `folder`."""
    folder: str = "outputs/cache/hypernetworks"
    """Folder of trained hypernetworks, one file for each model and settings."""
    training: Training = field(default_factory=Training)
    """Settings of the training; they are part of the file name in `folder`."""
    hypernetwork: Hypernetwork | None = None
    """A hypernetwork in memory; it takes precedence over every file."""

    check_every: ClassVar[int] = 10

    def __post_init__(self) -> None:
        self.design = Design(
            rank=self.rank, shared=self.shared, combine=self.combine, step_size=self.step_size
        )
        self._network = self.hypernetwork
        super().__post_init__()

    @property
    def sites(self) -> Sequence[Site]:
        """Every named matrix of every edited block."""
        return sites_of(self.layers, self.matrices)

    @property
    def trained(self) -> bool:
        """Always true: the hypernetwork is trained on facts, and edits facts about other subjects."""
        return True

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """The training of the hypernetwork."""
        return {"edit": f"train the hypernetwork longer: editor.training.steps ({self.training.steps})"}

    def file(self, model: Model) -> Path:
        """The file of the hypernetwork for this model and these settings."""
        name = name_of(model.name, model.digest, self.sites, self.design, asdict(self.training))
        return local_path(self.folder) / name

    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Load the hypernetwork.

        Raises:
            ConfigError: if there is none, or it is for another model or other matrices.
            DataError: for a file that cannot be read.
        """
        self.check(model)
        shapes = shapes_of(model, self.sites)
        if self._network is None:
            path, by_name = self._hypernetwork_file(model), self.path is None
            self._network = load_for(model, shapes, path, self.design, by_name=by_name)
        elif list(self._network.shapes.items()) != list(shapes.items()):
            raise ConfigError(f"{self.name} has a hypernetwork for other matrices than those of {model.name}")
        self._network.to(model.device).eval()
        super().prepare(model, facts, report)

    def train(
        self,
        model: Model,
        facts: Sequence[Fact],
        held_out: Sequence[Fact],
        *,
        texts: Sequence[str] = (),
        trained_on: Mapping[str, object] | None = None,
    ) -> Iterator[tuple[int, Numbers]]:
        """Train the hypernetwork step by step and save the best one as `file(model)`.

        Yields every step's number with its losses, at a validation also the figures on `held_out`, which have
        to be about other subjects. `texts` are running texts that an edit should leave unchanged;
        `trained_on` is written into the file. An interrupted training resumes from its last validation.

        Raises:
            ConfigError: for a matrix that the model does not have, or if another process trains the same.
            DataError: for facts that are not split by subject, or a checkpoint that cannot be read.
            NumericsError: for a loss that is NaN or infinite.
        """
        self.check(model)
        network = Hypernetwork(shapes_of(model, self.sites), self.design, self.training.seed)
        trainer = Trainer(model, network, self.training, facts, held_out, texts)
        checkpoint = self.checkpoint(model)
        with _alone(self.file(model)):
            for path in (checkpoint, self.file(model)):
                remove_parts(path.parent, path.name)  # of a training that was killed
            yield from trainer.run(checkpoint)
            metadata = {"facts": len(facts), **(trained_on or {}), "training": asdict(self.training)}
            figures = trainer.best.numbers if trainer.best else {}
            origin = Origin(model=model.name, digest=model.digest, trained_on=metadata, validation=figures)
            save(network, self.file(model), origin)
            checkpoint.unlink(missing_ok=True)
        self._network = network

    def checkpoint(self, model: Model) -> Path:
        """The file from which an interrupted training resumes; deleted when the training ends."""
        return self.file(model).with_suffix(".training")

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: the hypernetwork and the graph of the whole batch."""
        graph = super().memory(model, facts)
        with torch.device("meta"):
            parameters = Hypernetwork(shapes_of(model, self.sites), self.design).networks()
        return sum(4 * parameter.numel() for parameter in parameters) + graph

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """One forward and backward pass, then the hypernetwork.

        Raises:
            ConfigError: if the editor was not prepared.
            NumericsError: for a loss or an update with NaN or infinity; the weights were not touched.
        """
        if self._network is None:
            raise ConfigError(f"{self.name} has no hypernetwork yet; prepare it first")
        begun = time.perf_counter()
        lowest = min(site.layer for site in self.sites)
        reading = read_targets(model, facts, "teacher_forced", lowest)
        evaluation = reading.evaluate(self.sites)
        gradients = evaluation.gradients((evaluation.losses / reading.lengths).sum())
        read = time.perf_counter()
        with torch.no_grad():
            update = self.regularized(self._network.update(gradients), model, facts)
        seconds = {"gradients": read - begun, "hypernetwork": time.perf_counter() - read}
        losses = (evaluation.losses.detach() / reading.lengths).tolist()
        return Edit(
            update=update,
            diagnostics={"loss_start": sum(losses) / len(losses)},
            details={"loss_start": losses},
            seconds=seconds,
        )

    def _hypernetwork_file(self, model: Model) -> Path:
        """The file to load: `path`, or that of these settings in `folder` or the package."""
        if self.path is not None:
            file = local_path(self.path)
            if not file.is_file():
                raise ConfigError(
                    f"editor.path={self.path}, but there is no such file; null looks in {self.folder}"
                )
            return file
        trained = self.file(model)
        for path in (trained, SHIPPED / trained.name):
            if path.is_file():
                return path
        raise ConfigError(
            f"there is no hypernetwork of editor={self.name} for model={model.name} with these settings "
            f"({trained} is missing); train it with: "
            f"python -m pipeline intervention=hypernetwork editor={self.name} model={model.name}"
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file in training, which another training would mix with its own checkpoints."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"another process trains the hypernetwork {path} with the same settings: wait for it, or set "
            "editor.folder to another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()

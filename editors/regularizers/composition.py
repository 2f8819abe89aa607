"""The chain of an editor's regularizers: valid combinations, and their order."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from torch import Tensor

from editors.base import Targets
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model
from editors.regularizers.base import Point, Progress, Regularizer
from editors.regularizers.norm_reset import NormReset
from editors.regularizers.prune import Prune
from editors.updates import Delta, Site, WeightUpdate

POINTS: tuple[Point, ...] = ("stop", "target", "normal equations", "update", "weight")
"""All points, in the order in which they act."""


class RegularizerChain:
    """The regularizers of one editor, in the order in which they act.

    Raises:
        ConfigError: for a contradictory combination, or a point that the editor does not have.
    """

    def __init__(
        self, regularizers: Mapping[str, Regularizer], editor: str, points: Collection[Point] = POINTS
    ) -> None:
        for name, regularizer in regularizers.items():
            if regularizer.point not in points:
                raise ConfigError(
                    f"{name} acts at the {regularizer.point} of an edit, which {editor} does not have; "
                    "drop it or choose another editor"
                )
        stops = [name for name, regularizer in regularizers.items() if regularizer.patience]
        if len(stops) > 1:
            raise ConfigError(f"{' and '.join(stops)} both decide when a target is final; choose one")
        resets = [(r.every, name) for name, r in regularizers.items() if isinstance(r, NormReset)]
        prunes = [(r.every, name) for name, r in regularizers.items() if isinstance(r, Prune)]
        if resets and prunes and min(resets)[0] < min(prunes)[0]:
            raise ConfigError(
                f"{min(resets)[1]} scales the matrix more often than {min(prunes)[1]} compresses its "
                f"drift, which is then not that of the edits; drop one, or reset at most as often"
            )
        self._named = dict(regularizers)
        self._ordered = sorted(regularizers.values(), key=lambda r: (POINTS.index(r.point), r.order))

    @property
    def stop(self) -> Regularizer:
        """The regularizer that decides when a target is final; one that never stops if there is none."""
        return next((regularizer for regularizer in self._ordered if regularizer.patience), Regularizer())

    @property
    def ridge(self) -> float:
        """Multiple of the identity in the normal equations."""
        return sum((regularizer.ridge for regularizer in self._ordered), start=0.0)

    def remembers(self, default: Literal["before", "after"]) -> Literal["before", "after"] | None:
        """The keys of earlier edits that are preserved; None for no keys."""
        for regularizer in self._ordered:
            if regularizer.remembers is not None:
                return default if regularizer.remembers == "default" else regularizer.remembers
        return None

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """Prepare all regularizers on the unedited model."""
        for regularizer in self._ordered:
            regularizer.prepare(model, sites)

    def calibrate(self, find: Callable[[Sequence[Fact]], Targets], facts: Sequence[Fact]) -> None:
        """Calibrate all regularizers on the unedited model; `find` optimises targets there."""
        for regularizer in self._ordered:
            regularizer.calibrate(find, facts)

    def aim(self, targets: Targets) -> Targets:
        """The targets after all regularizers."""
        for regularizer in self._ordered:
            targets = regularizer.aim(targets)
        return targets

    def project(self, site: Site, delta: Delta) -> Delta:
        """The part of one layer's update that is written."""
        for regularizer in self._ordered:
            delta = regularizer.project(site, delta)
        return delta

    def finish(
        self, update: WeightUpdate, model: Model, facts: Sequence[Fact], progress: Progress
    ) -> dict[Site, Delta]:
        """The whole update after all regularizers; the model's weights are those before it."""
        finished = dict(update)
        for regularizer in self._ordered:
            regularizer.read(model, list(finished), facts)
            for site, delta in finished.items():
                finished[site] = regularizer.finish(site, delta, model.current(site), progress)
        return finished

    def shape(
        self, update: WeightUpdate, model: Model, facts: Sequence[Fact], progress: Progress
    ) -> dict[Site, Delta]:
        """`project` and `finish` together, for an editor that finds the updates of its matrices together."""
        projected = {site: self.project(site, delta) for site, delta in update.items()}
        return self.finish(projected, model, facts, progress)

    def commit(self) -> None:
        """Let all regularizers remember the edit that was finished last."""
        for regularizer in self._ordered:
            regularizer.commit()

    def state_dict(self) -> dict[str, Tensor]:
        """What the regularizers remember of earlier edits."""
        return {
            f"{name}.{key}": tensor
            for name, regularizer in self._named.items()
            for key, tensor in regularizer.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Let them remember it again, after `prepare`."""
        for name, regularizer in self._named.items():
            own = {key.removeprefix(f"{name}."): t for key, t in state.items() if key.startswith(f"{name}.")}
            regularizer.load_state_dict(own)

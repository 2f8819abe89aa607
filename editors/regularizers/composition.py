"""All regularizers of an editor: which combinations make sense, and in which order they act."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from editors.base import Targets
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model
from editors.regularizers.base import Point, Progress, Regularizer
from editors.regularizers.norm_reset import NormReset
from editors.regularizers.prune import Prune
from editors.updates import Delta, Site, WeightUpdate

POINTS: tuple[Point, ...] = ("stop", "target", "normal equations", "update", "weight")
"""In the order in which they act."""


class RegularizerChain:
    """The regularizers of one editor, in the order in which they act.

    Raises:
        ConfigError: for a combination that makes no sense, or a point that the editor does not have.
    """

    def __init__(
        self, chosen: Mapping[str, Regularizer], editor: str, points: Collection[Point] = POINTS
    ) -> None:
        for name, rule in chosen.items():
            if rule.point not in points:
                raise ConfigError(
                    f"{name} acts at the {rule.point} of an edit, which {editor} does not have; drop it or "
                    f"choose another editor"
                )
        stops = [name for name, rule in chosen.items() if rule.patience]
        if len(stops) > 1:
            raise ConfigError(f"{' and '.join(stops)} both decide when a target is final; choose one")
        resets = [(rule.every, name) for name, rule in chosen.items() if isinstance(rule, NormReset)]
        prunes = [(rule.every, name) for name, rule in chosen.items() if isinstance(rule, Prune)]
        if resets and prunes and min(resets)[0] < min(prunes)[0]:
            raise ConfigError(
                f"{min(resets)[1]} scales the matrix more often than {min(prunes)[1]} compresses its "
                f"drift, which is then not that of the edits; drop one, or reset at most as often"
            )
        self._chain = sorted(chosen.values(), key=lambda rule: (POINTS.index(rule.point), rule.order))

    @property
    def stop(self) -> Regularizer:
        """The one that decides when a target is final."""
        return next((rule for rule in self._chain if rule.patience), Regularizer())

    @property
    def ridge(self) -> float:
        """Multiple of the identity in the normal equations."""
        return sum((rule.ridge for rule in self._chain), start=0.0)

    def remembers(self, default: Literal["before", "after"]) -> Literal["before", "after"] | None:
        """Which keys of earlier edits are preserved, if any."""
        for rule in self._chain:
            if rule.remembers is not None:
                return default if rule.remembers == "default" else rule.remembers
        return None

    def prepare(self, model: Model, sites: Sequence[Site]) -> None:
        """On the unedited model."""
        for rule in self._chain:
            rule.prepare(model, sites)

    def calibrate(self, find: Callable[[Sequence[Fact]], Targets], facts: Sequence[Fact]) -> None:
        """On the unedited model, with a way to find targets there."""
        for rule in self._chain:
            rule.calibrate(find, facts)

    def aim(self, targets: Targets) -> Targets:
        """What the targets become."""
        for rule in self._chain:
            targets = rule.aim(targets)
        return targets

    def project(self, site: Site, delta: Delta) -> Delta:
        """The part of one layer's update that is written."""
        for rule in self._chain:
            delta = rule.project(site, delta)
        return delta

    def finish(self, update: WeightUpdate, model: Model, progress: Progress) -> dict[Site, Delta]:
        """What the whole update becomes; the model's weights are those before it."""
        finished = dict(update)
        for rule in self._chain:
            for site, delta in finished.items():
                finished[site] = rule.finish(site, delta, model.current(site), progress)
        return finished

    def shape(self, update: WeightUpdate, model: Model, progress: Progress) -> dict[Site, Delta]:
        """All of update and weight, for an editor that finds its matrices' updates together."""
        projected = {site: self.project(site, delta) for site, delta in update.items()}
        return self.finish(projected, model, progress)

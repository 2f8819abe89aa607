"""The model before a run: its weights, read from the files of its checkpoint as long as they are there."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from analysis.linalg import frobenius
from editors.models.model import Model
from editors.updates import Site


class Reference:
    """The unedited weights of every named site, in the checkpoint's files or main memory, and their norms."""

    def __init__(self, model: Model) -> None:
        self.weights: Mapping[Site, Tensor] = UneditedWeights(model)
        """On the CPU, in the precision of the model."""
        # from the model's own layout in memory: a sum in another order would not give a ratio of exactly 1
        norms = frobenius(model.current(site) for site in self.weights)
        self.norms: dict[Site, float] = dict(zip(self.weights, norms, strict=True))
        """‖W‖ of each."""

    def changed(self, model: Model) -> list[Site]:
        """The matrices in which a model of the same shape differs."""
        return [
            site
            for site, before in self.weights.items()
            if not torch.equal(before, model.current(site).cpu())
        ]


class UneditedWeights(Mapping[Site, Tensor]):
    """Every named matrix on the CPU as it was at the start, in the precision of the model.

    A matrix whose file holds exactly the loaded values, in any precision, is read from the file on access: a
    view of the file if the precision is that of the model. A frozen matrix is read from the model, where it
    cannot change. Other matrices, such as those of a model that was changed after it was loaded, are copied
    into main memory.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._dtype = {
            Site(name, layer): model.weight(name, layer).dtype
            for layer in range(model.depth)
            for name in model.sites
        }
        self._copies: dict[Site, Tensor] = {}
        for site in self._dtype:
            weight, stored = model.weight(*site).cpu(), self._read(site)
            if stored is None or not torch.equal(stored, weight):
                self._copies[site] = weight.clone()

    def __getitem__(self, site: Site) -> Tensor:
        if site in self._copies:
            return self._copies[site]
        stored = self._read(site)
        assert stored is not None
        return stored

    def __iter__(self) -> Iterator[Site]:
        return iter(self._dtype)

    def __len__(self) -> int:
        return len(self._dtype)

    def _read(self, site: Site) -> Tensor | None:
        """The matrix from where it stays, None if no file holds it; raises a KeyError for an unknown site."""
        dtype = self._dtype[site]
        if self._model.is_frozen(site):
            return self._model.weight(*site).cpu()
        stored = self._model.stored(site)
        return None if stored is None else stored.to(dtype)

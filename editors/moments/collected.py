"""Second moments collected over a corpus: computed once for a model, then read from a cache.

Every layer has a file of its own, and so has its spectrum; a further layer is computed alone. The folder is
named by everything that determines the numbers: model and tokenizer, precision, corpus, budget. An
interrupted pass continues from its last written totals.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from editors.data import Corpus
from editors.errors import ConfigError
from editors.models.model import Model
from editors.moments.moment_sources import SITE, Spectrum, decomposing
from editors.moments.streaming import Batching, Budget, SecondMoment, Tally, collect, home_of_totals
from editors.moments.tensor_cache import CachedTensors, TensorCache, unless_cached
from editors.phases import Report, silent
from editors.text_files import local_path

FORMAT = 2
"""Version of the files and of the sums; part of their description."""
_RARELY = 20
"""Time between two writings of the totals over that of one."""


@dataclass(frozen=True, kw_only=True)
class CollectedMoments:
    """Second moments over the beginning of a corpus; exactly one of the three budgets is given."""

    corpus: Corpus
    documents: int | None = None
    """Budget of documents, each cut at `max_tokens`, as in published statistics."""
    tokens: int | None = None
    """Budget of tokens."""
    tokens_per_width: int | None = None
    """Budget of tokens as a multiple of the width of a key, as in FastMEMIT."""
    name: str = ""
    """Name of the preset, for the label."""
    max_tokens: int = 4096
    """Largest number of tokens of a document; capped at the model's maximum."""
    batch_tokens: int = 4096
    """Padded tokens in one forward pass; more need more memory and do not change the result."""
    window: int = 256
    """Number of documents that are sorted by length and batched together."""
    save_seconds: float = 30.0
    """Seconds after which the totals of a running pass are written, so that it can be continued; more where
    writing takes more than a twentieth of them."""
    layers: Sequence[int] = ()
    """Blocks whose moments a pass collects besides those that are asked for, so that runs which edit
    different blocks share it."""
    folder: str = "outputs/cache/moments"
    """Folder of the cached matrices."""

    def __post_init__(self) -> None:
        for name in ("documents", "tokens", "tokens_per_width", "max_tokens", "batch_tokens", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"moments.{name}={value}, but it has to be positive")
        if len(self._budgets) != 1:
            budgets = ", ".join(f"{name}={value}" for name, value in self._budgets.items()) or "none"
            raise ConfigError(
                f"moments: {budgets} given of documents, tokens and tokens_per_width; give exactly one, "
                f"for example moments=tokens moments.tokens=100000"
            )

    @property
    def protects(self) -> Corpus:
        """The corpus."""
        return self.corpus

    @property
    def label(self) -> str:
        """Preset, budget and corpus."""
        ((unit, count),) = self._budgets.items()
        budget = f"{count}·d tokens" if unit == "tokens_per_width" else f"{count:,} {unit}"
        return f"{self.name}{': ' if self.name else ''}{budget} of {self.corpus.label}"

    def load(
        self, model: Model, layers: Sequence[int], report: Report = silent
    ) -> Mapping[int, Float[Tensor, "in in"]]:
        """The matrices of the layers in float64, from the cache if it holds them.

        Raises:
            ConfigError: for a block of `layers` that the model does not have.
            DataError: for a corpus without text.
            NumericsError: for keys with NaN or infinity.
        """
        if self.layers:
            model.check_layers(self.layers, "moments.layers")
        store = self._store(model)
        with store.locked():
            cached = {layer: store.read(_moment_of(layer)) for layer in layers}
            missing = [layer for layer, content in cached.items() if content is None]
            others = [layer for layer in self.layers if layer not in cached] if missing else []
            missing += [layer for layer in others if store.read(_moment_of(layer)) is None]
            computed = self._collect(model, sorted(missing), store, report) if missing else {}
        found = {layer: content.tensors["moment"] for layer, content in cached.items() if content}
        return found | {layer: computed[layer] for layer in layers if layer in computed}

    def spectra(self, model: Model, layers: Sequence[int], report: Report = silent) -> Mapping[int, Spectrum]:
        """Their eigendecompositions on the model's device, from the cache if it holds them.

        One pass over the corpus collects the moments of all layers that have no spectrum yet.
        """
        store = self._store(model)
        with store.locked():
            cached = {layer: store.read(_spectrum_of(layer)) for layer in layers}
        missing = [layer for layer, content in cached.items() if content is None]
        moments = self.load(model, missing, report) if missing else {}
        spectra: dict[int, Spectrum] = {}
        for layer, content in cached.items():
            report(decomposing(len(spectra), len(layers)))
            kept = _read(content, model.device) if content else None
            spectra[layer] = kept or _computed(moments[layer], layer, model, store)
        return spectra

    def will_read(self, model: str) -> Iterable[Corpus]:
        """The corpus, unless the cache has second moments of it for a model of this name.

        Raises:
            DataError: if the corpus has no identity, which names its place in the cache.
        """
        return unless_cached(self.corpus, self._root, model)

    @property
    def _root(self) -> Path:
        return local_path(self.folder)

    @property
    def _budgets(self) -> dict[str, int]:
        budgets = {
            "documents": self.documents,
            "tokens": self.tokens,
            "tokens_per_width": self.tokens_per_width,
        }
        return {name: value for name, value in budgets.items() if value is not None}

    def _budget(self, model: Model) -> Budget:
        if self.documents is not None:
            return Budget(documents=self.documents)
        if self.tokens is not None:
            return Budget(tokens=self.tokens)
        assert self.tokens_per_width is not None
        return Budget(tokens=self.tokens_per_width * model.weight(SITE, 0).shape[1])

    def _store(self, model: Model) -> TensorCache:
        budget = self._budget(model)
        description = {
            "format": FORMAT,
            "model": model.digest,
            "dtype": str(model.dtype),
            "corpus": self.corpus.identity(),
            "documents": budget.documents,
            "tokens": budget.tokens,
            "max_tokens": min(self.max_tokens, model.max_tokens),
            "site": SITE,
        }
        return TensorCache(self._root, model.name, description)

    def _collect(
        self, model: Model, layers: Sequence[int], store: TensorCache, report: Report
    ) -> dict[int, Tensor]:
        """Run the pass, or the rest of an interrupted one, and cache every layer."""
        name = f"partial-{'-'.join(map(str, layers))}"
        partial = store.read(name)
        home = home_of_totals(model, layers)
        tally = Tally.start(model, layers) if partial is None else _resumed(partial, home)
        batching = Batching(max_tokens=self.max_tokens, batch_tokens=self.batch_tokens, window=self.window)
        writer = _TallyWriter(store, name, self.save_seconds)
        collect(model, self.corpus, self._budget(model), batching, tally, writer, report)
        matrices = {layer: moment.matrix.cpu() for layer, moment in tally.moments.items()}
        for layer, matrix in matrices.items():
            store.write(_moment_of(layer), {"moment": matrix}, **self._notes(model, tally))
        store.remove(name)
        return matrices

    def _notes(self, model: Model, tally: Tally) -> dict[str, object]:
        return {
            "model": model.name,
            "statistics": self.label,
            "documents": tally.documents,
            "tokens": tally.tokens,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


class _TallyWriter:
    """Writes the totals of a pass to the cache at intervals of some seconds."""

    def __init__(self, store: TensorCache, name: str, seconds: float) -> None:
        self.store, self.name, self.seconds = store, name, seconds
        self.last, self.cost = time.monotonic(), 0.0

    def __call__(self, tally: Tally) -> None:
        start = time.monotonic()
        if start - self.last < max(self.seconds, _RARELY * self.cost):
            return
        totals = {str(layer): moment.total for layer, moment in tally.moments.items()}
        counts = {"read": tally.read, "documents": tally.documents, "tokens": tally.tokens}
        self.store.write(self.name, totals, **counts)
        self.last = time.monotonic()
        self.cost = self.last - start


def _resumed(partial: CachedTensors, home: torch.device) -> Tally:
    """The tally of an interrupted pass."""
    read, documents, tokens = (int(partial.notes[name]) for name in ("read", "documents", "tokens"))
    moments = {int(layer): SecondMoment(total.to(home), tokens) for layer, total in partial.tensors.items()}
    return Tally(moments=moments, read=read, documents=documents, tokens=tokens)


def _moment_of(layer: int) -> str:
    return f"{SITE}.{layer}"


def _spectrum_of(layer: int) -> str:
    return f"{SITE}.{layer}.spectrum"


def _read(content: CachedTensors, device: torch.device) -> Spectrum:
    return Spectrum(**{part: tensor.to(device) for part, tensor in content.tensors.items()})


def _computed(moment: Tensor, layer: int, model: Model, store: TensorCache) -> Spectrum:
    """The spectrum of a moment, also written to the cache."""
    spectrum = Spectrum.of(moment.to(model.device))
    parts = {"values": spectrum.values.cpu(), "vectors": spectrum.vectors.cpu()}
    with store.locked():
        store.write(_spectrum_of(layer), parts, model=model.name)
    return spectrum

"""Layer-pair probes: are the blocks of an edited model still where a probe of the unedited one expects them?

The residual stream after block i lies in another region than after block j, so that a linear classifier tells
the two apart. If edits move the activations, a classifier trained before them fails. A probe for the pair
(i, j) is a logistic regression on the residual-stream vector h:

    P(h is from block j) = σ(w · h + c)

trained on the unedited model once, on standardised features unless `solver.standardise` is false, and tested
on every later one; 0.5 is chance, and an accuracy that falls
means that block i or j has moved. Three controls help to interpret it:

    norm-only probes   see ‖h‖ alone: they fail if the scale changed and hold if only the direction did
    shuffled labels    show the accuracy that chance reaches with these samples
    direct probes      trained again at every measurement, on unedited against edited vectors of one block

Layer-pair probes of edited models: arXiv 2502.19416. The solver: `logistic.py`.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.inference.residuals import residuals
from analysis.inference.texts import TextSet
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from analysis.stages.probes.classifiers import LayerPair, Solver
from analysis.stages.probes.logistic import BatchedLogistic
from analysis.stages.probes.problems import has_finite_squares
from analysis.stages.probes.sampling import draw
from analysis.statistics.intervals import cluster_bootstrap
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.model import Model

log = logging.getLogger(__name__)

_CHOICES = ("all", "adjacent", "edited")

_MEANS = MappingProxyType(
    {
        "accuracy": "accuracy",
        "unedited": "unedited",
        "norm_only": "norm_only",
    }
)
"""Quantities with a mean over the pairs, and their columns in the table."""


@dataclass(kw_only=True)
class Probes(Stage):
    """Accuracy of probes between pairs of blocks, trained on the unedited model, on held-out documents.

    A sample is the residual stream after a block at a drawn token; the same tokens are used for every block
    and both models. First tokens are never drawn: attention rests there, and their norm is of another order.
    Documents, not tokens, are split into training and held-out ones.

    Keys, with two digits per block: `probe/accuracy/<LL-LL>` of each pair on the current model,
    `probe/accuracy/mean`, `probe/accuracy/edited` over the pairs with an edited block (unless all are),
    `probe/unedited/mean` on the unedited model, `probe/norm_only/mean`, in the first measurement
    `probe/shuffled/mean`, and `probe/direct/block.<LL>`, `probe/direct/mean`. The table `probes` has one row
    per pair.

    `probe/accuracy_low/mean` and `_high/mean` are the ends of the 95 % interval of `probe/accuracy/mean`, and
    `probe/change_low/mean` and `_high/mean` of its difference from `probe/unedited/mean`; the table has the
    same of each pair. Held-out documents are drawn with replacement for it, the same for both models and all
    pairs, since tokens of one document are not independent. The intervals are for these probes; they do not
    contain the variation by other training documents. A single held-out document gives none.

    Holds 12 · blocks · samples · width bytes in main memory, and the memory of the solver.
    """

    texts: TextSet
    name: str = "probes"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(100, 1000, 10_000)))
    solver: Solver = field(default_factory=BatchedLogistic)
    pairs: str | Sequence[Sequence[int]] = "all"
    """Pairs of blocks: `all`, `adjacent` ones, `edited` (with at least one of `edited`), or a list."""
    edited: Sequence[int] = ()
    """The blocks that will be edited, for `pairs: edited`."""
    samples: int = 2000
    """Tokens drawn in all, for training and testing together."""
    per_document: int = 8
    """Tokens drawn from one document, more if there are too few documents; others are not run at all."""
    held_out: float = 0.25
    """Share of the documents on which the probes are tested."""
    seed: int = 0
    """Seed of the drawn documents and tokens, of the split and of the shuffled labels."""
    batch_tokens: int = 2048
    """Tokens of one forward pass, padding included."""

    def __post_init__(self) -> None:
        if self.samples < 2 or self.per_document < 1:
            raise ConfigError(
                f"stage.probes.samples={self.samples} per_document={self.per_document}: at least two samples "
                f"and one token of a document are needed"
            )
        if isinstance(self.pairs, str) and self.pairs not in _CHOICES:
            raise ConfigError(
                f"stage.probes.pairs={self.pairs} has to be {', '.join(_CHOICES)}, or a list such as [[0, 1]]"
            )
        if not 0 < self.held_out < 1:
            raise ConfigError(f"stage.probes.held_out={self.held_out} has to lie between 0 and 1")

    @torch.inference_mode()
    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Draw the samples, take the unedited model's activations, fit its probes and the controls.

        Raises:
            ConfigError: for blocks that the model does not have, or more samples than the texts have tokens.
        """
        self._pairs = select_pairs(self.pairs, model, self.edited)
        self._sample = draw(
            self.texts.read(model, planned),
            samples=self.samples,
            per_document=self.per_document,
            held_out=self.held_out,
            seed=self.seed,
        )
        training = self._sample.training
        # the blocks of the unedited model, followed by those of the current one
        self._both = torch.cat([unedited := self._activations(model), torch.zeros_like(unedited)])
        train, held = unedited[:, :training], unedited[:, training:]
        self._probes = self.solver.fit(train, self._pairs)
        self._norm_probes = self.solver.fit(_norms(train), self._pairs)
        hits = self._probes.hits(held)
        self._unedited, self._unedited_hits = _share(hits), self._by_document(hits)
        labels = shuffled_labels(len(self._pairs), training, self.seed)
        self._shuffled = self.solver.fit(train, self._pairs, labels).accuracy(held)

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Test all probes on the current model, and fit the direct ones."""
        now = self._both[model.depth :]
        # at the start nothing has changed since `prepare`
        now[:] = self._both[: model.depth] if observation.is_unedited else self._activations(model)
        table, intervals = self._table(now[:, self._sample.training :], observation)
        result: Measurement = {
            f"probe/accuracy/{first:02d}-{second:02d}": float(accuracy)
            for first, second, accuracy in table[["first", "second", "accuracy"]].itertuples(index=False)
        }
        for quantity, column in _MEANS.items():
            result[f"probe/{quantity}/mean"] = float(table[column].mean())
        if observation.is_first:
            result["probe/shuffled/mean"] = float(table["shuffled"].mean())
        edited = {site.layer for site in observation.edited}
        edited_pairs = table[table["first"].isin(edited) | table["second"].isin(edited)]
        # if every block was edited, this mean would be that of all pairs
        if len(edited_pairs) and len(edited) < model.depth:
            result["probe/accuracy/edited"] = float(edited_pairs["accuracy"].mean())
        return result | intervals | self._direct(model.depth) | {"probes": table}

    def _activations(self, model: Model) -> Float[Tensor, "block sample width"]:
        sample = self._sample
        return residuals(model, sample.documents, sample.positions, batch_tokens=self.batch_tokens)

    def _table(
        self, held: Float[Tensor, "block sample width"], observation: Observation
    ) -> tuple[pd.DataFrame, dict[str, float]]:
        """One row per pair, and the intervals of the means over the pairs."""
        table = pd.DataFrame(self._pairs, columns=["first", "second"])
        for name in ("part", "unit", "count"):
            table.insert(0, name, getattr(observation, name))
        hits = self._probes.hits(held)
        table["accuracy"] = _share(hits).numpy()
        intervals = self._intervals(self._by_document(hits))
        for name, ends in intervals.items():
            table[name.removeprefix("accuracy_")] = ends[:-1]
        table["unedited"] = self._unedited.numpy()
        table["norm_only"] = self._norm_probes.accuracy(_norms(held)).numpy()
        table["shuffled"] = self._shuffled.numpy()
        means = {f"probe/{name}/mean": float(ends[-1]) for name, ends in intervals.items()}
        return table, {key: end for key, end in means.items() if not math.isnan(end)}

    def _by_document(self, hits: Int[Tensor, "problem sample"]) -> np.ndarray:
        """The hits in each held-out document: (document, problem), and their mean as the last column."""
        sums = torch.stack([part.sum(dim=1) for part in hits.split(list(self._sample.held), dim=1)]).double()
        return torch.cat([sums, sums.mean(dim=1, keepdim=True)], dim=1).numpy()

    def _intervals(self, hits: np.ndarray) -> dict[str, np.ndarray]:
        """Ends of the intervals of accuracy and change, for every pair and, last, the mean of all pairs."""
        sizes = 2 * np.array(self._sample.held)
        sums = np.concatenate([hits, hits - self._unedited_hits], axis=1)
        low, high = (np.split(ends, 2) for ends in cluster_bootstrap(sums, sizes, seed=self.seed))
        return {
            "accuracy_low": low[0], "accuracy_high": high[0], "change_low": low[1], "change_high": high[1]
        }  # fmt: skip

    def _direct(self, depth: int) -> dict[str, float]:
        """Accuracy of telling the two models apart after each block.

        A block whose activations have overflowed needs no probe: its accuracy is 1, and a warning names it.
        """
        finite = has_finite_squares(self._both[depth:])
        blocks = finite.nonzero()[:, 0].tolist()
        overflowed = [block for block in range(depth) if not finite[block]]
        result = {f"probe/direct/block.{block:02d}": 1.0 for block in overflowed}
        if overflowed:
            log.warning("no direct probe of blocks %s: their activations are NaN or overflow", overflowed)
        if not blocks:
            return result | {"probe/direct/mean": 1.0}
        pairs = [(block, block + len(blocks)) for block in range(len(blocks))]
        both = self._both if len(blocks) == depth else self._both[[*blocks, *(depth + b for b in blocks)]]
        training = self._sample.training
        accuracy = self.solver.fit(both[:, :training], pairs).accuracy(both[:, training:])
        result |= {f"probe/direct/block.{b:02d}": float(a) for b, a in zip(blocks, accuracy, strict=True)}
        return result | {"probe/direct/mean": sum(result.values()) / depth}


def select_pairs(
    choice: str | Sequence[Sequence[int]], model: Model, edited: Sequence[int]
) -> tuple[LayerPair, ...]:
    """The pairs of blocks that the option `pairs` names.

    Raises:
        ConfigError: for a block that the model does not have, a block with itself, or no pair at all.
    """
    every = [(i, j) for j in range(model.depth) for i in range(j)]
    match choice:
        case "all":
            pairs = sorted(every)
        case "adjacent":
            pairs = [(i, i + 1) for i in range(model.depth - 1)]
        case "edited":
            model.check_layers(edited, "stage.probes.edited")
            pairs = sorted(pair for pair in every if not set(edited).isdisjoint(pair))
        case _:
            assert not isinstance(choice, str)
            pairs = [_ordered_pair(pair, model) for pair in choice]
    if not pairs:
        raise ConfigError(
            f"stage.probes.pairs={choice} names no pair of the {model.depth} blocks of {model.name}: leave "
            f"the stage out or choose another value"
        )
    return tuple(dict.fromkeys(pairs))


def _ordered_pair(pair: Sequence[int], model: Model) -> LayerPair:
    """The pair with its lower block first; raises ConfigError unless it is two blocks of the model."""
    if len(pair) != 2 or pair[0] == pair[1]:
        raise ConfigError(
            f"stage.probes.pairs holds {list(pair)}, but a pair is two different blocks, such as [0, 1]"
        )
    model.check_layers(pair, "stage.probes.pairs")
    return min(pair), max(pair)


def shuffled_labels(problems: int, samples: int, seed: int) -> Bool[Tensor, "problem side sample"]:
    """Labels of which half are true, in a random order of its own for each problem."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(2 * samples, generator=generator) for _ in range(problems)]
    return torch.stack([order < samples for order in orders]).reshape(problems, 2, samples)


def _share(hits: Int[Tensor, "problem sample"]) -> Float[Tensor, " problem"]:
    """The accuracy of each problem."""
    return hits.sum(dim=1).double() / (2 * hits.shape[1])


def _norms(layers: Float[Tensor, "block sample width"]) -> Float[Tensor, "block sample 1"]:
    """‖h‖ as the single feature."""
    return layers.norm(dim=-1, keepdim=True)

"""How much the drift of the weights does: its energy on keys that occur, and what reaches the output.

The norm of a drift D = W − W₀ says nothing about the inputs on which it acts. A matrix reads keys k, and D
changes its output by Dk. Summed over keys of a text from which no editor took its second moments,

    exposure     E = √( Σ ‖Dk‖² / Σ ‖W₀k‖² )
    reach        R = √( Σ ‖δh‖² / Σ ‖h₀‖² )

with h₀ the last hidden state, after the final norm, and δh its first-order change along the drift of all
matrices together: the derivative of h(W₀ + tD) at t = 0. R / E, the alignment, tells how much of what the
drift writes the later blocks read. Keys, h₀ and the derivative are those of the unedited model, so that the
numbers describe the drift and not the damage. The pass computes with W₀ in place of the edited matrices;
what else was changed, such as biases in training, stays as it is now.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from warnings import catch_warnings

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from analysis.inference.scoring import HEAD_TOKENS
from analysis.inference.texts import Batch, TextSet, batches
from analysis.linalg import ratio
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from analysis.stages.reference import Reference
from editors.data import SLOT, Fact
from editors.models.hooks import capture
from editors.models.model import Model
from editors.models.tokenization import tokenize
from editors.updates import Delta, Site

Matrices = Mapping[Site, Float[Tensor, "out in"]]


@dataclass(kw_only=True)
class FunctionalDrift(Stage):
    """Exposure of every edited matrix, reach and alignment of the whole drift, and its divergence.

    Keys: `norm/functional/<site>` E over the tokens of the texts; `norm/functional_subjects/<site>` over the
    last subject tokens of facts that the run never edits; each with `edited` in place of the site, √Σ E² over
    the edited matrices. `norm/functional_reach/edited` R and `norm/functional_alignment/edited` R / E, over
    the same tokens of the texts; `norm/functional_divergence/edited`, the mean of KL(p₀ ‖ p) in nats between
    the predictions of the unedited and the edited model there. Without a drift all are 0, and there is no
    alignment.

    Memory beside the model: three copies of the edited matrices in float32, and one batch.
    """

    texts: TextSet
    name: str = "functional"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(100, 1000, 10_000)))
    facts: int = 200
    """Most facts on whose subjects the drift is measured; 0 for none."""
    leading: int = 1
    """Tokens left out at the start of each document, where trained models have far larger keys."""
    batch_tokens: int = 1024
    """Tokens of one forward pass, padding included."""

    def __post_init__(self) -> None:
        self.check_minimums(facts=0, leading=0, batch_tokens=1)

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Read the texts; raises as `TextSet.read`."""
        self._documents = [d for d in self.texts.read(model, planned) if len(d) > self.leading]

    @torch.no_grad()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """A pass with derivative and one of the edited model over the texts, and one over the facts."""
        reference = observation.reference
        assert reference is not None, "the functional stage needs the unedited weights"
        drift = _drift(model, reference, observation.edited)
        sums = _Sums()
        for batch in batches(self._documents, model, self.batch_tokens):
            sums.add(_unedited_pass(model, drift, batch, batch.after(self.leading), with_output=True))
        result = sums.metrics("functional", observation.edited)
        facts = observation.untouched[: self.facts]
        if facts:
            subjects = _Sums()
            for batch, last in _subject_batches(model, facts, self.batch_tokens):
                subjects.add(_unedited_pass(model, drift, batch, last, with_output=False))
            result |= subjects.metrics("functional_subjects", observation.edited)
        return result | sums.output_metrics()


@dataclass(frozen=True, kw_only=True)
class _Energies:
    """Sums of squares over the tokens of a batch."""

    tokens: int
    drift: Mapping[Site, float]
    """‖Dk‖²."""
    output: Mapping[Site, float]
    """‖W₀k‖²."""
    change: float = 0.0
    """‖δh‖²."""
    hidden: float = 0.0
    """‖h₀‖²."""
    divergence: float = 0.0
    """KL(p₀ ‖ p), summed over the tokens."""


class _Sums:
    """Energies summed over batches."""

    def __init__(self) -> None:
        self._batches: list[_Energies] = []

    def add(self, energies: _Energies) -> None:
        self._batches.append(energies)

    def metrics(self, quantity: str, edited: Sequence[Site]) -> Measurement:
        """Exposure of every edited matrix, and of all."""
        whole = {f"norm/{quantity}/edited": self._exposure}
        return {f"norm/{quantity}/{site}": self._square(site) ** 0.5 for site in edited} | whole

    @property
    def _exposure(self) -> float:
        """√Σ E² over the matrices that moved."""
        sites = dict.fromkeys(site for batch in self._batches for site in batch.drift)
        return sum(map(self._square, sites)) ** 0.5

    def _square(self, site: Site) -> float:
        """E² of a matrix."""
        return _share(
            sum(batch.drift.get(site, 0.0) for batch in self._batches),
            sum(batch.output.get(site, 0.0) for batch in self._batches),
        )

    def output_metrics(self) -> Measurement:
        """Reach, alignment and divergence of the whole drift."""
        exposure, change = self._exposure, sum(batch.change for batch in self._batches)
        reach = _share(change, sum(batch.hidden for batch in self._batches)) ** 0.5
        tokens = sum(batch.tokens for batch in self._batches)
        result: Measurement = {
            "norm/functional_reach/edited": reach,
            "norm/functional_divergence/edited": sum(batch.divergence for batch in self._batches) / tokens,
        }
        return result | ({"norm/functional_alignment/edited": reach / exposure} if exposure else {})


def _share(part: float, whole: float) -> float:
    """`part` / `whole`, also 0 for nothing of nothing."""
    return ratio(part, whole) if part else 0.0


def _drift(model: Model, reference: Reference, edited: Sequence[Site]) -> Matrices:
    """W − W₀ of the edited matrices that moved, in float32, from the weights that the forward pass reads."""
    drift: dict[Site, Tensor] = {}
    for site in edited:
        now = model.weight(*site)
        change = now.float() - reference.weights[site].to(now.device).float()
        if bool(change.any()):
            drift[site] = change
    return drift


def _unedited_pass(
    model: Model, drift: Matrices, batch: Batch, counted: Tensor, *, with_output: bool
) -> _Energies:
    """Energies at the counted tokens of a batch, with the unedited weights in place."""
    modules = {site: model.module(*site) for site in drift}

    def hidden_at(share: Tensor) -> tuple[Tensor, dict[Site, Tensor]]:
        """The last hidden states with a share of the drift, and the keys of the matrices."""
        weights = {site: Delta(left=(share - 1.0) * change) for site, change in drift.items()}
        with capture(inputs=modules) as keys:
            hidden = model.hidden_after(weights, batch.ids, batch.mask)
        return hidden[counted], {site: keys[site][counted] for site in drift}

    if not drift:
        return _Energies(tokens=int(counted.sum()), drift={}, output={})
    none, along = torch.zeros((), device=batch.ids.device), torch.ones((), device=batch.ids.device)
    if not with_output:
        _, keys = hidden_at(none)
        moved, output = _energies(model, drift, keys)
        return _Energies(tokens=int(counted.sum()), drift=moved, output=output)
    # fused kernels of attention have no forward derivative; torch warns of a deprecated function of its own
    with sdpa_kernel(SDPBackend.MATH), catch_warnings(category=DeprecationWarning, action="ignore"):
        before, change, keys = cast(
            "tuple[Tensor, Tensor, Matrices]", torch.func.jvp(hidden_at, (none,), (along,), has_aux=True)
        )
    moved, output = _energies(model, drift, keys)
    now = model.hidden(batch.ids, batch.mask)[counted]
    return _Energies(
        tokens=len(now),
        drift=moved,
        output=output,
        change=_square(change),
        hidden=_square(before),
        divergence=_divergence(model, before, now),
    )


def _energies(
    model: Model, drift: Matrices, keys: Mapping[Site, Float[Tensor, "token in"]]
) -> tuple[dict[Site, float], dict[Site, float]]:
    """Σ‖Dk‖² and Σ‖W₀k‖² of every matrix that moved."""
    moved, output = {}, {}
    for site, change in drift.items():
        inputs, unedited = keys[site].float(), model.weight(*site).float() - change
        moved[site], output[site] = _square(inputs @ change.T), _square(inputs @ unedited.T)
    return moved, output


def _divergence(
    model: Model, before: Float[Tensor, "token width"], now: Float[Tensor, "token width"]
) -> float:
    """Σ KL(p₀ ‖ p) over the tokens, in nats."""
    total = 0.0
    for old, new in zip(before.split(HEAD_TOKENS), now.split(HEAD_TOKENS), strict=True):
        expected, actual = (model.logits(hidden).log_softmax(dim=-1) for hidden in (old, new))
        total += float((expected.exp() * (expected - actual)).double().sum())
    return total


def _subject_batches(
    model: Model, facts: Sequence[Fact], batch_tokens: int
) -> Iterator[tuple[Batch, Tensor]]:
    """Prompts that the model can read whole, and in each the last token of its subject."""
    prompts, ends = [], []
    for fact in facts:
        tokens, start = tokenize(model.tokenizer, fact.statement), fact.prompt.index(SLOT)
        if len(tokens.ids) <= model.max_tokens:
            prompts.append(tokens.ids)
            ends.append(tokens.within(start, start + len(fact.subject))[-1])
    for batch in batches(prompts, model, batch_tokens):
        last = torch.zeros_like(batch.mask)
        last[range(len(batch.index)), [ends[index] for index in batch.index]] = True
        yield batch, last


def _square(vectors: Float[Tensor, "token width"]) -> float:
    return float(vectors.double().square().sum())

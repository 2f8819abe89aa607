"""Binary logistic regressions for many pairs of layers at once.

A problem is a pair (a, b) of activation matrices (sample, width). With x the samples of both, N of them, μ
and σ the mean and standard deviation of their columns, and y = 1 for the samples of b, it asks for

    min over w, c:   F = 1/N Σ log(1 + exp(−(2y − 1) s)) + ‖w‖² / (2 C N),    s = w · (x − μ) / σ + c

which is `make_pipeline(StandardScaler(), LogisticRegression(C=C))` of scikit-learn, divided by C N.

A problem alone reads its activations twice an iteration to do two operations with each number. But w / σ
can be multiplied with the activations as they are, so all problems that share a layer are one matrix product,
and no standardised copy is made. The rest keeps the number of these products small: L-BFGS begins with a
metric that all problems share; a line search needs no product, since scores are linear in the step; and
problems that have converged leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.linalg import vecdot

from analysis.stages.probes.classifiers import Classifiers, Pair, warn_unfinished
from analysis.stages.probes.problems import Moments, Problems, common_metric, problems_of
from editors.errors import ConfigError, NumericsError

_SLOPE_LEFT = 0.1
"""A line search ends where this share of the first slope is left."""
_LINE_STEPS = 20
_LEAVING = 0.1
"""Share of a batch that has to have converged before the others are copied together."""


@dataclass(frozen=True, kw_only=True)
class BatchedLogistic:
    """Fits all pairs at once by a preconditioned L-BFGS, in the precision of the activations."""

    inverse_penalty: float = 1.0
    """C: the larger, the less ‖w‖ is held down."""
    tolerance: float = 1e-4
    """Largest entry of F's gradient at the end, like `tol` of scikit-learn."""
    max_iterations: int = 1000
    memory: int = 5
    """Steps that L-BFGS remembers."""
    batch_bytes: int = 2**30
    """Of what is held beside activations and result; pairs that need more go one batch after another."""

    def __post_init__(self) -> None:
        if self.inverse_penalty <= 0 or self.tolerance <= 0:
            raise ConfigError(
                f"solver.inverse_penalty={self.inverse_penalty} tolerance={self.tolerance}: both have to be "
                f"positive"
            )

    def fit(
        self,
        layers: Float[Tensor, "layer sample width"],
        pairs: Sequence[Pair],
        labels: Bool[Tensor, "problem side sample"] | None = None,
    ) -> Classifiers:
        """A classifier for each pair; `labels` are true for what counts as the second layer.

        Holds 4 · ((3 · memory + 9) · width + 16 · samples) bytes a pair in float32, `batch_bytes` at the
        most, and three matrices of width². Says how many have not converged after `max_iterations`.

        Raises:
            NumericsError: for NaN or infinity in the activations or on the way.
        """
        moments = Moments.of(layers)
        penalty = 1 / (self.inverse_penalty * 2 * layers.shape[1])
        metric = common_metric(layers, moments)
        size = max(1, self.batch_bytes // self._bytes_a_pair(layers))
        parts = [slice(start, start + size) for start in range(0, len(pairs), size)]
        found = []
        for part in parts:
            given = None if labels is None else labels[part]
            found.append(self._solve(problems_of(layers, moments, pairs[part], given, penalty), metric))
        weights, intercepts = (torch.cat(each) for each in zip(*found, strict=True))
        return Classifiers(pairs, weights, intercepts)

    def _bytes_a_pair(self, layers: Float[Tensor, "layer sample width"]) -> int:
        _, samples, width = layers.shape
        return layers.element_size() * ((3 * self.memory + 9) * width + 16 * samples)

    def _solve(
        self, problems: Problems, metric: Float[Tensor, "entry entry"]
    ) -> tuple[Float[Tensor, "problem width"], Float[Tensor, " problem"]]:
        """Weights and intercepts for activations as they are."""
        run = _Run.start(problems, metric, self.memory)
        result = torch.zeros_like(run.point)
        going = run.slopes > self.tolerance
        for _ in range(self.max_iterations):
            if not bool(going.any()):
                break
            if int(going.sum()) <= (1 - _LEAVING) * len(going):
                result[run.index[~going]] = run.point[~going]
                run.keep(going)
            run.step(metric)
            going = run.slopes > self.tolerance
        warn_unfinished(int(going.sum()), len(result), self.max_iterations)
        result[run.index] = run.point
        return problems.unstandardised(result)


@dataclass(frozen=True)
class _Step:
    """What L-BFGS remembers of an iteration."""

    moved: Float[Tensor, "problem entry"]
    change: Float[Tensor, "problem entry"]
    """Of the gradient."""
    bent: Float[Tensor, "problem entry"]
    """The metric times the change."""
    inverse: Float[Tensor, " problem"]
    """1 / (moved · change), and 0 where that is not positive."""

    def keep(self, which: Bool[Tensor, " problem"]) -> "_Step":
        return _Step(self.moved[which], self.change[which], self.bent[which], self.inverse[which])


@dataclass
class _Run:
    """Where the regressions of a batch have got to."""

    problems: Problems
    index: Int[Tensor, " problem"]
    """Which of the batch they are."""
    point: Float[Tensor, "problem entry"]
    scores: Float[Tensor, "problem sample"]
    gradient: Float[Tensor, "problem entry"]
    bent: Float[Tensor, "problem entry"]
    """The metric times the gradient."""
    memory: int
    past: list[_Step] = field(default_factory=list)

    @staticmethod
    def start(problems: Problems, metric: Float[Tensor, "entry entry"], memory: int) -> "_Run":
        point = metric.new_zeros(len(problems.mean), len(metric))
        scores = torch.zeros_like(problems.labels)
        gradient = problems.start(point)
        return _Run(problems, torch.arange(len(point)), point, scores, gradient, gradient @ metric, memory)

    @property
    def slopes(self) -> Float[Tensor, " problem"]:
        """Largest entry of each gradient."""
        return self.gradient.abs().amax(dim=1)

    def keep(self, which: Bool[Tensor, " problem"]) -> None:
        """Go on with these alone."""
        self.problems, self.index = self.problems.keep(which), self.index[which]
        self.point, self.scores = self.point[which], self.scores[which]
        self.gradient, self.bent = self.gradient[which], self.bent[which]
        self.past = [step.keep(which) for step in self.past]

    def step(self, metric: Float[Tensor, "entry entry"]) -> None:
        """One iteration of each: direction, its scores, the best length, the gradient there."""
        direction = self._direction()
        ahead = self.problems.scores(direction)
        length = _length(self._line(direction, ahead), vecdot(self.gradient, direction))[:, None]
        moved = direction.mul_(length)
        self.point += moved
        self.scores.addcmul_(length, ahead)
        gradient = self.problems.gradient(self.point, self.scores)
        if not bool(gradient.isfinite().all()):
            raise NumericsError("the gradient of a probe has become NaN or infinite")
        bent, change = gradient @ metric, gradient - self.gradient
        inverse = 1 / vecdot(moved, change)
        inverse = torch.where(inverse.isfinite() & (inverse > 0), inverse, 0)
        self.past = [*self.past, _Step(moved, change, bent - self.bent, inverse)][-self.memory :]
        self.gradient, self.bent = gradient, bent

    def _direction(self) -> Float[Tensor, "problem entry"]:
        """−H g by the two loops of L-BFGS (Nocedal and Wright, algorithm 7.4).

        The metric times what the first loop leaves is a sum of vectors that are known already.
        """
        left, bent, shares = self.gradient.clone(), self.bent.clone(), []
        for step in reversed(self.past):
            share = (step.inverse * vecdot(step.moved, left))[:, None]
            left.addcmul_(share, step.change, value=-1)
            bent.addcmul_(share, step.bent, value=-1)
            shares.append(share)
        for step in self.past[-1:]:
            scale = 1 / (step.inverse * vecdot(step.change, step.bent))
            bent *= torch.where(scale.isfinite() & (scale > 0), scale, 1)[:, None]
        for step, share in zip(self.past, reversed(shares), strict=True):
            back = (step.inverse * vecdot(step.change, bent))[:, None]
            bent.addcmul_(share - back, step.moved)
        # rounding may leave no descent; the metric alone always gives one
        return torch.where(vecdot(bent, self.gradient)[:, None] > 0, bent, self.bent).neg_()

    def _line(
        self, direction: Float[Tensor, "problem entry"], ahead: Float[Tensor, "problem sample"]
    ) -> "_Line":
        weights, turn = self.point[:, :-1], direction[:, :-1]
        penalty = self.problems.penalty
        return _Line(
            self.scores,
            ahead,
            self.problems.labels,
            penalty * vecdot(weights, turn),
            penalty * vecdot(turn, turn),
        )


@dataclass(frozen=True)
class _Line:
    """F along one direction of each problem."""

    scores: Float[Tensor, "problem sample"]
    ahead: Float[Tensor, "problem sample"]
    """The direction's scores."""
    labels: Float[Tensor, "problem sample"]
    linear: Float[Tensor, " problem"]
    square: Float[Tensor, " problem"]
    """First and second derivative of the penalty."""

    def derivatives(
        self, length: Float[Tensor, " problem"]
    ) -> tuple[Float[Tensor, " problem"], Float[Tensor, " problem"]]:
        """F′ and F″."""
        count = self.scores.shape[1]
        chance = torch.addcmul(self.scores, length[:, None], self.ahead).sigmoid_()
        slope = vecdot(chance - self.labels, self.ahead) / count
        bend = vecdot(chance.addcmul_(chance, chance, value=-1), self.ahead.square()) / count
        return slope + self.linear + length * self.square, bend + self.square

    def keep(self, which: Int[Tensor, " some"]) -> "_Line":
        return _Line(
            self.scores[which], self.ahead[which], self.labels[which], self.linear[which], self.square[which]
        )


def _length(line: _Line, first: Float[Tensor, " problem"]) -> Float[Tensor, " problem"]:
    """Where F is nearly least along each line, by Newton's method in a bracket; `first` is F′(0)."""
    result = torch.ones_like(first)
    low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
    going, here = torch.arange(len(first)), result
    for _ in range(_LINE_STEPS):
        slope, bend = line.derivatives(here)
        left = (slope.abs() > _SLOPE_LEFT * first.abs()).nonzero()[:, 0]
        if len(left) == 0:
            break
        low, high = torch.where(slope < 0, here, low), torch.where(slope < 0, high, here)
        newton, middle = here - slope / bend, torch.where(high.isfinite(), (low + high) / 2, 4 * here)
        inside = (newton > low) & (newton < high.minimum(8 * here))
        here = torch.where(inside, newton, middle)[left]
        line, going, first, low, high = line.keep(left), going[left], first[left], low[left], high[left]
        result[going] = here
    return result

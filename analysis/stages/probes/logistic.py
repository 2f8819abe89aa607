"""Binary logistic regressions for many pairs of layers at once.

A problem is a pair (a, b) of activation matrices (sample, width). With x the samples of both, N of them, μ
and σ the mean and standard deviation of their columns, and y = 1 for the samples of b, it is

    min over w, c:   F = 1/N Σ log(1 + exp(−(2y − 1) s)) + ‖w‖² / (2 C N),    s = w · (x − μ) / σ + c

which is `make_pipeline(StandardScaler(), LogisticRegression(C=C))` of scikit-learn, divided by C N. With raw
features σ = 1, which is `LogisticRegression(C=C)`.

A problem alone reads its activations twice per iteration to do two operations with each number. But w / σ can
be multiplied with the raw activations, so all problems that share a layer are one matrix product, and no
standardised copy is made. The other steps keep the number of these products small: L-BFGS begins with a
metric that all problems share; a line search needs no product, since scores are linear in the step; and
problems that have converged leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.linalg import vecdot

from analysis.stages.probes.classifiers import Classifiers, LayerPair, warn_unconverged
from analysis.stages.probes.problems import Moments, Problems, common_metric, make_problems
from editors.errors import NumericsError, check_positive

_SLOPE_LEFT = 0.1
"""A line search ends at a slope of at most this share of the first slope."""
_LINE_STEPS = 20
"""Most steps of a line search."""
_LEAVING = 0.1
"""Share of a batch that has to have converged before the others are copied into a smaller one."""


@dataclass(frozen=True, kw_only=True)
class BatchedLogistic:
    """Fits all pairs at once by a preconditioned L-BFGS, in the precision of the activations."""

    standardise: bool = True
    """Whether each feature is divided by its standard deviation over the samples of the two layers. Raw
    features give features of large variance a weaker penalty, and other accuracies by a point or two."""
    inverse_penalty: float = 1.0
    """C: the larger, the weaker the penalty on ‖w‖."""
    tolerance: float = 1e-4
    """Largest entry of F's gradient at the end, like `tol` of scikit-learn."""
    max_iterations: int = 1000
    memory: int = 5
    """Steps that L-BFGS remembers."""
    batch_bytes: int = 2**30
    """Memory beside activations and result; pairs that need more are fitted in several batches."""

    def __post_init__(self) -> None:
        names = ("inverse_penalty", "tolerance", "max_iterations", "memory", "batch_bytes")
        check_positive("solver", **{name: getattr(self, name) for name in names})

    def fit(
        self,
        layers: Float[Tensor, "layer sample width"],
        pairs: Sequence[LayerPair],
        labels: Bool[Tensor, "problem side sample"] | None = None,
    ) -> Classifiers:
        """One classifier per pair; `labels` are true for samples that count as the second layer's.

        Holds 4 · ((3 · memory + 9) · width + 16 · samples) bytes per pair in float32, at most `batch_bytes`,
        and three matrices of width². Warns how many have not converged after `max_iterations`.

        Raises:
            NumericsError: for NaN or infinity in the activations or on the way.
        """
        moments = Moments.of(layers)
        penalty = 1 / (self.inverse_penalty * 2 * layers.shape[1])
        metric = common_metric(layers, moments, penalty, standardise=self.standardise)
        size = max(1, self.batch_bytes // self._bytes_per_pair(layers))
        batches = [slice(start, start + size) for start in range(0, len(pairs), size)]
        solutions = []
        for batch in batches:
            batch_labels = None if labels is None else labels[batch]
            problems = make_problems(
                layers, moments, pairs[batch], batch_labels, penalty, standardise=self.standardise
            )
            solutions.append(self._solve(problems, metric))
        weights, intercepts = (torch.cat(each) for each in zip(*solutions, strict=True))
        return Classifiers(pairs, weights, intercepts)

    def _bytes_per_pair(self, layers: Float[Tensor, "layer sample width"]) -> int:
        _, samples, width = layers.shape
        return layers.element_size() * ((3 * self.memory + 9) * width + 16 * samples)

    def _solve(
        self, problems: Problems, metric: Float[Tensor, "entry entry"]
    ) -> tuple[Float[Tensor, "problem width"], Float[Tensor, " problem"]]:
        """Weights and intercepts for raw activations."""
        state = _State.start(problems, metric, self.memory)
        result = torch.zeros_like(state.point)
        active = state.slopes > self.tolerance
        for _ in range(self.max_iterations):
            if not bool(active.any()):
                break
            if int(active.sum()) <= (1 - _LEAVING) * len(active):
                result[state.index[~active]] = state.point[~active]
                state.select(active)
            state.step(metric)
            active = state.slopes > self.tolerance
        warn_unconverged(int(active.sum()), len(result), self.max_iterations)
        result[state.index] = state.point
        return problems.unstandardised(result)


@dataclass(frozen=True)
class _Step:
    """One iteration in the memory of L-BFGS."""

    moved: Float[Tensor, "problem entry"]
    """Change of the point."""
    change: Float[Tensor, "problem entry"]
    """Change of the gradient."""
    scaled_change: Float[Tensor, "problem entry"]
    """The metric times the change."""
    inverse: Float[Tensor, " problem"]
    """1 / (moved · change), and 0 if that is not positive."""

    def select(self, mask: Bool[Tensor, " problem"]) -> "_Step":
        return _Step(self.moved[mask], self.change[mask], self.scaled_change[mask], self.inverse[mask])


@dataclass
class _State:
    """The regressions of a batch that have not left it, at their current points."""

    problems: Problems
    index: Int[Tensor, " problem"]
    """Numbers of the regressions in the batch."""
    point: Float[Tensor, "problem entry"]
    scores: Float[Tensor, "problem sample"]
    gradient: Float[Tensor, "problem entry"]
    scaled_gradient: Float[Tensor, "problem entry"]
    """The metric times the gradient."""
    memory: int
    past: list[_Step] = field(default_factory=list)

    @staticmethod
    def start(problems: Problems, metric: Float[Tensor, "entry entry"], memory: int) -> "_State":
        point = metric.new_zeros(len(problems.mean), len(metric))
        scores = torch.zeros_like(problems.labels)
        gradient = problems.start(point)
        return _State(problems, torch.arange(len(point)), point, scores, gradient, gradient @ metric, memory)

    @property
    def slopes(self) -> Float[Tensor, " problem"]:
        """Largest entry of each gradient."""
        return self.gradient.abs().amax(dim=1)

    def select(self, mask: Bool[Tensor, " problem"]) -> None:
        """Continue with the problems of a mask alone."""
        self.problems, self.index = self.problems.select(mask), self.index[mask]
        self.point, self.scores = self.point[mask], self.scores[mask]
        self.gradient, self.scaled_gradient = self.gradient[mask], self.scaled_gradient[mask]
        self.past = [step.select(mask) for step in self.past]

    def step(self, metric: Float[Tensor, "entry entry"]) -> None:
        """One iteration of each problem: direction, its scores, the best length, the gradient there."""
        direction = self._direction()
        direction_scores = self.problems.scores(direction)
        line = self._line(direction, direction_scores)
        length = _line_search(line, vecdot(self.gradient, direction))[:, None]
        moved = direction.mul_(length)
        self.point += moved
        self.scores.addcmul_(length, direction_scores)
        gradient = self.problems.gradient(self.point, self.scores)
        if not bool(gradient.isfinite().all()):
            raise NumericsError("the gradient of a probe has become NaN or infinite")
        scaled, change = gradient @ metric, gradient - self.gradient
        inverse = 1 / vecdot(moved, change)
        inverse = torch.where(inverse.isfinite() & (inverse > 0), inverse, 0)
        step = _Step(moved, change, scaled - self.scaled_gradient, inverse)
        self.past = [*self.past, step][-self.memory :]
        self.gradient, self.scaled_gradient = gradient, scaled

    def _direction(self) -> Float[Tensor, "problem entry"]:
        """−H g by the two loops of L-BFGS (Nocedal and Wright, algorithm 7.4).

        The metric times the result of the first loop is a sum of vectors that are known already.
        """
        rest, direction, shares = self.gradient.clone(), self.scaled_gradient.clone(), []
        for step in reversed(self.past):
            share = (step.inverse * vecdot(step.moved, rest))[:, None]
            rest.addcmul_(share, step.change, value=-1)
            direction.addcmul_(share, step.scaled_change, value=-1)
            shares.append(share)
        for step in self.past[-1:]:
            scale = 1 / (step.inverse * vecdot(step.change, step.scaled_change))
            direction *= torch.where(scale.isfinite() & (scale > 0), scale, 1)[:, None]
        for step, share in zip(self.past, reversed(shares), strict=True):
            back = (step.inverse * vecdot(step.change, direction))[:, None]
            direction.addcmul_(share - back, step.moved)
        # rounding may leave no descent direction; the metric alone always gives one
        is_descent = vecdot(direction, self.gradient)[:, None] > 0
        return torch.where(is_descent, direction, self.scaled_gradient).neg_()

    def _line(
        self, direction: Float[Tensor, "problem entry"], direction_scores: Float[Tensor, "problem sample"]
    ) -> "_Line":
        weights, weight_direction = self.point[:, :-1], direction[:, :-1]
        penalty = self.problems.penalty
        return _Line(
            self.scores,
            direction_scores,
            self.problems.labels,
            penalty * vecdot(weights, weight_direction),
            penalty * vecdot(weight_direction, weight_direction),
        )


@dataclass(frozen=True)
class _Line:
    """F along one direction of each problem."""

    scores: Float[Tensor, "problem sample"]
    """Scores at the start of the line."""
    direction_scores: Float[Tensor, "problem sample"]
    labels: Float[Tensor, "problem sample"]
    linear: Float[Tensor, " problem"]
    """First derivative of the penalty at the start."""
    square: Float[Tensor, " problem"]
    """Second derivative of the penalty."""

    def derivatives(
        self, length: Float[Tensor, " problem"]
    ) -> tuple[Float[Tensor, " problem"], Float[Tensor, " problem"]]:
        """F′ and F″ at a length."""
        count, ahead = self.scores.shape[1], self.direction_scores
        probability = torch.addcmul(self.scores, length[:, None], ahead).sigmoid_()
        slope = vecdot(probability - self.labels, ahead) / count
        curvature = vecdot(probability.addcmul_(probability, probability, value=-1), ahead.square()) / count
        return slope + self.linear + length * self.square, curvature + self.square

    def select(self, index: Int[Tensor, " some"]) -> "_Line":
        ahead = self.direction_scores[index]
        return _Line(self.scores[index], ahead, self.labels[index], self.linear[index], self.square[index])


def _line_search(line: _Line, first: Float[Tensor, " problem"]) -> Float[Tensor, " problem"]:
    """Length at which F is nearly minimal along each line; `first` is F′(0).

    Newton's method in a bracket, which is halved, or grown, if a Newton step leaves it.
    """
    result = torch.ones_like(first)
    low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
    active, length = torch.arange(len(first)), result
    for _ in range(_LINE_STEPS):
        slope, curvature = line.derivatives(length)
        steep = (slope.abs() > _SLOPE_LEFT * first.abs()).nonzero()[:, 0]
        if len(steep) == 0:
            break
        low, high = torch.where(slope < 0, length, low), torch.where(slope < 0, high, length)
        newton, middle = (
            length - slope / curvature,
            torch.where(high.isfinite(), (low + high) / 2, 4 * length),
        )
        inside = (newton > low) & (newton < high.minimum(8 * length))
        length = torch.where(inside, newton, middle)[steep]
        line, active, first, low, high = (
            line.select(steep),
            active[steep],
            first[steep],
            low[steep],
            high[steep],
        )
        result[active] = length
    return result

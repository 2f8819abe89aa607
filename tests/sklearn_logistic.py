"""The yardstick of the batched solver: the logistic regression of scikit-learn."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from analysis.stages.probes.classifiers import Classifiers, LayerPair, layer_labels, warn_unconverged


@dataclass(frozen=True, kw_only=True)
class SklearnLogistic:
    """One pair at a time: `make_pipeline(StandardScaler(), LogisticRegression(C=...))`, or no scaler."""

    standardise: bool = True
    inverse_penalty: float = 1.0
    """C of scikit-learn: the larger, the weaker the penalty on ‖w‖."""
    tolerance: float = 1e-4
    """`tol` of scikit-learn: largest entry of the mean loss's gradient at the end."""
    max_iterations: int = 1000

    def fit(
        self,
        layers: Float[Tensor, "layer sample width"],
        pairs: Sequence[LayerPair],
        labels: Bool[Tensor, "problem side sample"] | None = None,
    ) -> Classifiers:
        """One classifier per pair; warns how many ended at `max_iterations`."""
        labels = layer_labels(layers, pairs) if labels is None else labels
        fits = [
            self._fit(torch.cat([layers[a], layers[b]]), y) for (a, b), y in zip(pairs, labels, strict=True)
        ]
        weights, intercepts, steps = zip(*fits, strict=True)
        warn_unconverged(sum(each >= self.max_iterations for each in steps), len(pairs), self.max_iterations)
        return Classifiers(pairs, torch.stack(weights).to(layers), torch.stack(intercepts).to(layers))

    def _fit(self, samples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """Weights and intercept for raw samples, and the number of iterations."""
        scaler = StandardScaler(with_std=self.standardise)
        model = LogisticRegression(C=self.inverse_penalty, tol=self.tolerance, max_iter=self.max_iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted by the caller
            model.fit(scaler.fit_transform(samples.numpy()), labels.flatten().numpy())
        weights = torch.as_tensor(model.coef_[0]).double()
        if self.standardise:
            weights = weights / torch.as_tensor(scaler.scale_)
        intercept = float(np.squeeze(model.intercept_)) - weights @ torch.as_tensor(scaler.mean_).double()
        return weights, intercept, int(np.max(model.n_iter_))

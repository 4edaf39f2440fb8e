"""A small fitted head: a logistic regression on raw features, scaling and temperature folded in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

# B exchanges, F features, K classes


class Head(NamedTuple):
    """Weights and bias of each class."""

    weights_KF: NDArray[np.float64]
    bias_K: NDArray[np.float64]

    @classmethod
    def of(cls, fitted: Mapping[str, Any]) -> Self:
        """The head as a fit stored it."""
        return cls(np.array(fitted["weights"]), np.array(fitted["bias"]))

    def stored(self) -> dict[str, Any]:
        """What `of` reads: six significant digits, so that the file stays small and a second fit writes the same."""
        weights = [[float(f"{value:.6g}") for value in row] for row in self.weights_KF]
        return {"bias": [float(f"{value:.6g}") for value in self.bias_K], "weights": weights}

    def cooled(self, temperature: float) -> Self:
        """The head whose logits are divided by the temperature."""
        return type(self)(self.weights_KF / temperature, self.bias_K / temperature)

    def logits(self, features_BF: NDArray[np.float64]) -> NDArray[np.float64]:
        """Unscaled log-odds, nats, shape (B, K)."""
        return np.asarray(features_BF @ self.weights_KF.T + self.bias_K)

    def odds(self, features_BF: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-odds of the second of two classes, nats, shape (B,)."""
        logits_BK = self.logits(features_BF)
        return np.asarray(logits_BK[:, 1] - logits_BK[:, 0])

    def probabilities(self, features_BF: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each class, shape (B, K)."""
        return softmax(self.logits(features_BF))


def softmax(logits_BK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of logits in nats, each row summing to 1."""
    odds_BK = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
    return np.asarray(odds_BK / odds_BK.sum(axis=1, keepdims=True))

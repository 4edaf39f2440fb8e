"""Log-probabilities at some places of a text, as far as a loss asks for them.

Losses ask through `Places`, so that the same loss runs on whole log-probabilities (`FullPlaces`) and inside the fused
head, where they exist for a few rows at a time. Axes: N places, P tokens asked for, K kept ids, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class Kept(NamedTuple):
    """Log-probabilities of K ids at each place, and of all other ids together, exact however little that is."""

    logprobs_NK: Tensor
    rest_N: Tensor


class Places(ABC):
    """What a model says at N places, nats; all of it differentiable. `vocabulary` is how many ids there are."""

    vocabulary: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def said(self, token_P: Tensor, *, at_P: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Log-probability of each token at its place, shape (P,); `at_P` is 0, 1, 2 ... where it is not given."""

    @abstractmethod
    def among(self, ids_K: Tensor, *, at_P: Tensor, temperature: float) -> Kept:
        """Log-probabilities (P, K) of some ids and (P,) of all others together, exact however little that is."""

    @abstractmethod
    def kept(self, ids_NK: Tensor) -> Kept:
        """Log-probabilities of these ids, different ones at each place, and of the rest."""

    @abstractmethod
    def every(self) -> Tensor:
        """Log-probabilities of all ids, shape (N, V)."""


class FullPlaces(Places):
    """Places whose log-probabilities are all there, shape (N, V)."""

    def __init__(self, logprobs_NV: Tensor) -> None:
        self.logprobs_NV = logprobs_NV
        self.vocabulary = logprobs_NV.shape[1]

    def __len__(self) -> int:
        return len(self.logprobs_NV)

    def said(self, token_P: Tensor, *, at_P: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        at_P = torch.arange(len(self), device=token_P.device) if at_P is None else at_P
        scaled_NV = self.logprobs_NV / temperature
        return scaled_NV[at_P, token_P] - scaled_NV.logsumexp(-1)[at_P]

    def among(self, ids_K: Tensor, *, at_P: Tensor, temperature: float) -> Kept:
        scaled_PV = self.logprobs_NV[at_P] / temperature
        whole_P = scaled_PV.logsumexp(-1)
        rest_P = scaled_PV.index_fill(1, ids_K, -torch.inf).logsumexp(-1)
        return Kept(scaled_PV[:, ids_K] - whole_P[:, None], rest_P - whole_P)

    def kept(self, ids_NK: Tensor) -> Kept:
        rest_N = self.logprobs_NV.scatter(1, ids_NK, -torch.inf).logsumexp(-1)
        return Kept(self.logprobs_NV.gather(1, ids_NK), rest_N)

    def every(self) -> Tensor:
        return self.logprobs_NV

"""What a loss is given, and what it gives back.

A loss sees only tensors, and none reduces: it returns a value and a weight per unit (token or prompt), and one
function in the training step divides by the weight of the whole optimizer step. Axes: N supervised tokens,
R tokens of rejected replies, B prompts with a known risk, O tokens of refusal openings, K kept ids, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from limbeck.losses.places import Places
from limbeck.protocols import TopK
from limbeck.spec import Kind

Rows: TypeAlias = Tensor | slice
NONE = slice(0)
Needs = Literal["reply", "distribution", "rejected", "risk"]


class Labels(NamedTuple):
    """All that is known before the model runs: what is to be learnt, and how much each unit counts."""

    tokens_N: Tensor
    weight_N: Tensor
    taught_N: Tensor  # True where the teacher's distribution is known
    rejected_R: Tensor
    rejected_weight_R: Tensor
    risk_B: Tensor
    risk_weight_B: Tensor

    def only(self, *, taught: Rows = NONE, rejected: Rows = NONE, prompts: Rows = NONE) -> Labels:
        """The labels of some units alone."""
        return Labels(
            *(column[taught] for column in self[:3]),
            *(column[rejected] for column in self[3:5]),
            *(column[prompts] for column in self[5:]),
        )


class Openings(NamedTuple):
    """The places where tokens of refusal openings would come, for B prompts.

    All prompts share the openings: `token_O` are their tokens, one opening after the other, `sizes` their lengths,
    `at_BO` the place of each token.
    """

    places: Places
    at_BO: Tensor
    token_O: Tensor
    sizes: tuple[int, ...]

    def logprobs_BE(self, temperature: float) -> Tensor:
        """Log-probability of each of the E openings, nats, when the model is decoded at that temperature."""
        token_BO = self.token_O.expand_as(self.at_BO)
        said_P = self.places.said(token_BO.flatten(), at_P=self.at_BO.flatten(), temperature=temperature)
        said_BO = said_P.view_as(self.at_BO)
        return torch.stack([one.sum(1) for one in said_BO.split(self.sizes, dim=1)], dim=1)


class Passes(NamedTuple):
    """What the model said: where a taught token comes, where a rejected one does, and where a refusal would open."""

    student: Places
    rejected: Places
    openings: Openings
    teacher: TopK  # rows where `taught_N` is False are not read


class Units(NamedTuple):
    """A value in nats and a weight for each unit; the weights do not depend on the model."""

    value: Tensor
    weight: Tensor


class Loss(Kind):
    """Settings of a loss; `weight` is its share in the objective."""

    weight: float = 1.0
    needs: ClassVar[frozenset[Needs]] = frozenset()

    @abstractmethod
    def weights(self, labels: Labels) -> Tensor:
        """The weight of each unit, known before the model runs."""

    @abstractmethod
    def __call__(self, passes: Passes, labels: Labels) -> Units:
        """The value of each unit, nats."""


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - exp(log_p)) for log_p <= 0, exact at both ends (Mächler 2012); -inf-safe at log_p = 0."""
    log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
    return torch.where(log_p > -0.6931, torch.log(-torch.expm1(log_p)), torch.log1p(-torch.exp(log_p)))

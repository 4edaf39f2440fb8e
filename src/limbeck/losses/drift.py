"""Drift: on harmless prompts the student stays what it was."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from limbeck.losses.divergence import kl_from, sloped
from limbeck.losses.spec import Labels, Passes, Units
from limbeck.losses.token_loss import TokenLoss


class Drift(TokenLoss):
    """KL(q || q_0) to the untrained model on replies to harmless prompts, nats per token; 0 before training.

    Helps to hold what was never to change, at the price of one more pass without gradient; the adapter switched off
    gives q_0, so no second model is held. Only answers are compared: reasoning is a habit that the untrained model need
    not have. ρ‖φ‖², the other half of staying close, is `train.weight_decay`. After the KL term of RLHF (Ziegler et al.
    2019, arXiv:1909.08593).
    """

    kind: Literal["drift"] = "drift"
    needs = frozenset({"reply", "base"})

    def weights(self, labels: Labels) -> Tensor:
        return super().weights(labels) * ~labels.taught.harmful * (labels.position_N >= 0)

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        value_N = sloped(lambda base, student: kl_from(student, base), passes.base.every(), passes.student.every())
        return Units(value_N, self.weights(labels))

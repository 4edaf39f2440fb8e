"""Preference: the safe reply is likelier than the rejected one, by more than it was before training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch.nn.functional import logsigmoid

from limbeck.losses.spec import Labels, Loss, Passes, Units


class Preference(Loss):
    """-log σ(β [log q/q_0(reply) - log q/q_0(rejected)]), nats per pair; log 2 before training.

    The judges' ranking as training: the reply to learn against each reply to the same prompt that a judge rejected. It
    needs no reward model. Whole replies are compared, so nothing is averaged over tokens; β is how far the student
    may go from where it began. Helps once replies to learn and rejected ones both come from the student's own range.
    After DPO (Rafailov et al. 2023, arXiv:2305.18290).
    """

    kind: Literal["preference"] = "preference"
    beta: float = Field(default=0.1, gt=0)
    needs = frozenset({"reply", "rejected", "base"})
    over = "pairs"

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        chosen_L, rejected_L, base_chosen_L, base_rejected_L = passes.pairs
        margin_L = (chosen_L - base_chosen_L) - (rejected_L - base_rejected_L)
        return Units(-logsigmoid(self.beta * margin_L), self.weights(labels))

"""What all losses over taught tokens share: where in the reply they look."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from limbeck.losses.spec import Labels, Loss, Over


class TokenLoss(Loss):
    """A loss over taught tokens.

    Whether a reply refuses is decided in its first tokens (Qi et al. 2024, arXiv:2406.05946): tokens from the
    `decision_window`-th of the answer on count `floor` times as much as those before. Without a window all count alike.
    """

    decision_window: int | None = Field(default=None, ge=1)
    floor: float = Field(default=0.2, ge=0, le=1)
    over: ClassVar[Over] = "taught"

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> Self:
        if self.decision_window is None and self.floor != type(self).model_fields["floor"].default:
            raise ValueError("'floor' does nothing without 'decision_window'; set that, or leave floor out")
        return self

    def weights(self, labels: Labels) -> Tensor:
        weight_N = labels.taught.weight
        if self.decision_window is None:
            return weight_N
        return weight_N.where(labels.position_N < self.decision_window, self.floor * weight_N)

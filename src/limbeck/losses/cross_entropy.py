"""Cross-entropy: the student learns the reply itself."""

from __future__ import annotations

from typing import Literal

from limbeck.losses.spec import Labels, Passes, Units
from limbeck.losses.token_loss import TokenLoss


class CrossEntropy(TokenLoss):
    """-log q(token), nats per token. Helps always: the reply is all that a text-only teacher gives."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    needs = frozenset({"reply"})

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        return Units(-passes.student.said(labels.tokens_N), self.weights(labels))

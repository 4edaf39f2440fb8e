"""Cross-entropy: the student learns the reply itself."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from limbeck.losses.spec import Labels, Loss, Passes, Units


class CrossEntropy(Loss):
    """-log q(token), nats per token. Helps always: the reply is all that a text-only teacher gives."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    needs = frozenset({"reply"})

    def weights(self, labels: Labels) -> Tensor:
        return labels.weight_N

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        return Units(-passes.student.said(labels.tokens_N), self.weights(labels))

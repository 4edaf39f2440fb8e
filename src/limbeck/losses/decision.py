"""The decision: whether to refuse a prompt, taught on the prompt alone."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from limbeck.losses.spec import Labels, Loss, Passes, Units, log1mexp


class Decision(Loss):
    """Bernoulli cross-entropy between a prompt's risk r and the student's probability q of refusing, nats.

    -[r log q + (1 - r) log(1 - q)], q the mass of the refusal openings at the start of the reply. No reply is
    needed, so it can be taught on many more prompts than there are replies. Its least value is the entropy of r.
    Ours; docs/notebook.md has the measurements behind it.
    """

    kind: Literal["decision"] = "decision"
    needs = frozenset({"risk"})

    def weights(self, labels: Labels) -> Tensor:
        return labels.risk_weight_B

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        refuses_B = passes.refuses_B.clamp(max=0.0)
        value_B = -(labels.risk_B * refuses_B + (1 - labels.risk_B) * log1mexp(refuses_B))
        return Units(value_B, self.weights(labels))

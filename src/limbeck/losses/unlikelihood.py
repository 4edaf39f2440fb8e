"""Unlikelihood: the student unlearns what it should not have said."""

from __future__ import annotations

from typing import Literal

from limbeck.losses.spec import Labels, Loss, Passes, Units


class Unlikelihood(Loss):
    """-log(1 - q(token)) on rejected replies, nats per token. Helps where the student says what a judge rejected; a
    little of it is enough, since pushing down says nothing of what to say. After Welleck et al. 2019
    (arXiv:1908.04319)."""

    kind: Literal["unlikelihood"] = "unlikelihood"
    needs = frozenset({"rejected"})
    over = "rejected"

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        # The rest itself: 1 - q would lose all digits near q = 1.
        return Units(-passes.rejected.kept(labels.rejected_R[:, None]).rest_N, self.weights(labels))

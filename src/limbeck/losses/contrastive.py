"""Contrastive: the prompt leads to the safe reply, not to the unsafe one."""

from __future__ import annotations

from typing import Literal

from limbeck.losses.contrast import Contrast
from limbeck.losses.spec import Labels, Passes, Units


class Contrastive(Contrast):
    """InfoNCE from the end of a prompt to replies, pooled over their tokens, nats per lesson with a reply.

    Drawn to the reply to learn; pushed from the rejected replies to the same prompt and from the reply of another
    lesson. Helps where the student answers and refuses in the same words. After Oord et al. 2018.
    """

    kind: Literal["contrastive"] = "contrastive"
    needs = frozenset({"reply", "rejected", "reply_contrasts"})
    over = "reply_contrasts"

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        return Units(self.info_nce(passes.reply_contrasts), self.weights(labels))

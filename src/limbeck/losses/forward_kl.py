"""Forward KL: the student covers all that the teacher would say."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from limbeck.losses.divergence import Divergence, Sloped, kl


class ForwardKL(Divergence):
    """T² KL(p_T || q_T), nats per token: covers all that the teacher would say, and so helps to keep
    what the student knows. After Hinton et al. 2015 (arXiv:1503.02531).

    From drawn ids it gives the gradient right in the mean, not the value.
    """

    kind: Literal["forward_kl"] = "forward_kl"

    @property
    def takes_drawn(self) -> bool:
        return self.temperature == 1.0

    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Sloped:
        return kl(log_p_NJ, log_q_NJ)

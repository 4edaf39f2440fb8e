"""Skewed reverse KL: the student keeps to a teacher that is widened by some of the student."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from limbeck.losses.divergence import Divergence, kl, mixed


class SkewReverseKL(Divergence):
    """T² KL(q || (1 - α) p + α q), nats per token, at most T² log(1/α); 0 < α < 1.

    After DistiLLM (Ko et al. 2024, arXiv:2402.03898).
    """

    kind: Literal["skew_reverse_kl"] = "skew_reverse_kl"
    alpha: float = Field(default=0.1, gt=0, lt=1)

    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Tensor:
        return kl(log_q_NJ, mixed(log_q_NJ, log_p_NJ, share=self.alpha))

"""Skewed reverse KL: the student keeps to a teacher that is widened by some of the student."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from limbeck.losses.divergence import Divergence, Sloped, expected_terms


class SkewReverseKL(Divergence):
    """T² KL(q || (1 - α) p + α q), nats per token, at most T² log(1/α); 0 < α < 1.

    Helps as reverse KL does, bounded where the teacher gives a token nearly nothing. After DistiLLM (Ko et al. 2024,
    arXiv:2402.03898).
    """

    kind: Literal["skew_reverse_kl"] = "skew_reverse_kl"
    alpha: float = Field(default=0.1, gt=0, lt=1)

    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Sloped:
        p_NJ, q_NJ = log_p_NJ.exp(), log_q_NJ.exp()
        m_NJ = torch.lerp(p_NJ, q_NJ, self.alpha)
        value_N, terms_NJ = expected_terms(q_NJ, log_q_NJ - m_NJ.log())
        inside_NJ = q_NJ.square_().div_(m_NJ).nan_to_num_(nan=0.0)
        return Sloped(value_N, terms_NJ.sub_(inside_NJ, alpha=self.alpha))

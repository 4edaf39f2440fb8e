"""Jensen-Shannon: between covering the teacher and keeping to it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from limbeck.losses.divergence import Divergence, Sloped, expected, expected_terms


class JensenShannon(Divergence):
    """T² [β KL(p || m) + (1 - β) KL(q || m)] / (β (1 - β)), m = β p + (1 - β) q, nats per token; 0 < β < 1.

    Forward KL in the limit β → 0, reverse KL for β → 1. The division makes all β pull alike: without it a sweep of β is
    a sweep of the learning rate. Helps where forward KL spreads too far and reverse KL too little. After GKD (Agarwal
    et al. 2023, arXiv:2306.13649).
    """

    kind: Literal["jensen_shannon"] = "jensen_shannon"
    beta: float = Field(default=0.5, gt=0, lt=1)

    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Sloped:
        p_NJ, q_NJ = log_p_NJ.exp(), log_q_NJ.exp()
        log_m_NJ = torch.lerp(q_NJ, p_NJ, self.beta).log_()
        of_p_N = expected(p_NJ, log_p_NJ - log_m_NJ)
        of_q_N, terms_NJ = expected_terms(q_NJ, log_q_NJ - log_m_NJ)
        # Each divided by the other's share: β / (β (1 - β)) = 1 / (1 - β). In the slope all but the second cancels.
        return Sloped(of_p_N / (1 - self.beta) + of_q_N / self.beta, terms_NJ.div_(self.beta))

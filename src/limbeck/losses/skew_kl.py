"""Skewed KL: forward KL to a student that is helped by some of the teacher, finite everywhere."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from limbeck.losses.divergence import Divergence, Sloped, expected


class SkewKL(Divergence):
    """T² KL(p || α p + (1 - α) q), nats per token, at most T² log(1/α); 0 < α < 1.

    Helps where a student is far from its teacher: its gradient stays bounded where the student gives a token nearly
    nothing. After DistiLLM (Ko et al. 2024, arXiv:2402.03898).
    """

    kind: Literal["skew_kl"] = "skew_kl"
    alpha: float = Field(default=0.1, gt=0, lt=1)

    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Sloped:
        p_NJ, q_NJ = log_p_NJ.exp(), log_q_NJ.exp()
        m_NJ = torch.lerp(q_NJ, p_NJ, self.alpha)
        value_N = expected(p_NJ, log_p_NJ - m_NJ.log())
        return Sloped(value_N, (p_NJ * q_NJ).div_(m_NJ).nan_to_num_(nan=0.0).mul_(self.alpha - 1))

"""Total variation: the mass that teacher and student place differently."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from limbeck.losses.divergence import Divergence, Sloped


class TotalVariation(Divergence):
    """T² ½ Σ |p - q| per token, without unit: the mass placed differently, in [0, 1] at temperature 1.

    Helps where a few tokens far off should not lead: its gradient does not grow with the distance. After f-distill (Wen
    et al. 2023, arXiv:2307.15190).
    """

    kind: Literal["total_variation"] = "total_variation"

    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Sloped:
        q_NJ = log_q_NJ.exp()
        apart_NJ = q_NJ - log_p_NJ.exp()
        return Sloped(0.5 * apart_NJ.abs().sum(-1), apart_NJ.sign_().mul_(q_NJ).mul_(0.5))

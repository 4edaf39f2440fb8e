"""Total variation: the mass that teacher and student place differently."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from limbeck.losses.divergence import Divergence


class TotalVariation(Divergence):
    """T² ½ Σ |p - q| per token, without unit: the mass placed differently, in [0, 1] at temperature 1.

    Its gradient does not grow with the distance. After f-distill (Wen et al. 2023, arXiv:2307.15190).
    """

    kind: Literal["total_variation"] = "total_variation"

    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Tensor:
        return 0.5 * (log_p_NJ.exp() - log_q_NJ.exp()).abs().sum(-1)

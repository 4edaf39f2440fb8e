"""Reverse KL: the student says only what the teacher would."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from limbeck.losses.divergence import Divergence, Sloped, kl_from

# What the teacher all but excludes counts as this likely, nats: an infinite penalty would teach nothing else.
LEAST_LOG_P = -30.0


class ReverseKL(Divergence):
    """T² KL(q_T || p_T), nats per token: says only what the teacher would, if not all of it.

    A teacher's probability below e^-30 counts as e^-30. Helps a student too small for all that a teacher would say; on
    harmful prompts it contracts onto the shortest refusals. After MiniLLM (Gu et al. 2023, arXiv:2306.08543).
    """

    kind: Literal["reverse_kl"] = "reverse_kl"

    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Sloped:
        return kl_from(log_q_NJ, log_p_NJ.clamp(min=LEAST_LOG_P))

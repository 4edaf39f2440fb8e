"""Anti-teacher: the teacher's answer with what the untrained model would have said taken out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from limbeck.losses.divergence import Divergence, Sloped, kl, sloped
from limbeck.losses.spec import Passes
from limbeck.protocols import TopK


class AntiTeacher(Divergence):
    """T² KL(p* || q), p* ∝ p (p / p_anti)^κ, nats per token, over the teacher's ids and the rest; 0 where
    KL(p || p_anti) is below `least`, that is where both teachers agree.

    The anti-teacher is the student before training, so what a policy in the teacher's context changed is taught louder
    than what both would have said anyway. Helps where few tokens of a reply carry what the policy changed. After
    contrastive decoding (Li et al. 2022, arXiv:2210.15097) and proxy-tuning (Liu et al. 2024, arXiv:2401.08565).
    """

    kind: Literal["anti_teacher"] = "anti_teacher"
    kappa: float = Field(default=0.5, gt=0)
    least: float = Field(default=0.1, ge=0)
    needs = frozenset({"distribution", "base"})

    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Sloped:
        return kl(log_p_NJ, log_q_NJ)

    def value(self, passes: Passes, teacher: TopK | Tensor) -> Tensor:
        p_NJ, q_NJ = self.outcomes(passes.student, teacher)
        _, anti_NJ = self.outcomes(passes.base, teacher)
        sharpened_NJ = (p_NJ + self.kappa * (p_NJ - anti_NJ)).log_softmax(-1)
        differ_N = kl(p_NJ, anti_NJ.detach()).value_N >= self.least
        return self.temperature**2 * sloped(self.of, sharpened_NJ, q_NJ).where(differ_N, 0.0)

"""Forward KL: the student covers all that the teacher would say."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from limbeck.losses.spec import Labels, Loss, Passes, Units
from limbeck.protocols import TopK


class ForwardKL(Loss):
    """T² KL(p_T || q_T), nats per token, over the teacher's K ids and one bucket for the rest.

    The tail bucket keeps mass outside the K from being free. At temperature T the K log-probs are tempered and
    the tail is treated as one outcome. After Hinton et al. 2015 (arXiv:1503.02531).
    """

    kind: Literal["forward_kl"] = "forward_kl"
    temperature: float = Field(default=1.0, gt=0)
    needs = frozenset({"distribution"})

    def weights(self, labels: Labels) -> Tensor:
        return labels.weight_N * labels.taught_N

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        weight_N = self.weights(labels)
        known_N = weight_N > 0
        value_N = weight_N.new_zeros(len(weight_N))
        teacher = TopK(*(part[known_N] for part in passes.teacher))
        value_N[known_N] = top_k_kl(passes.student_NV[known_N], teacher, temperature=self.temperature)
        return Units(value_N, weight_N)


def top_k_kl(student_NV: Tensor, teacher: TopK, *, temperature: float) -> Tensor:
    """T² KL over K ids and the tail, nats, shape (N,); `student_NV` are log-probabilities at temperature 1."""
    p_NK1, q_NK1 = teacher.logprobs_NK, student_NV.gather(1, teacher.ids_NK)
    if teacher.ids_NK.shape[1] < student_NV.shape[1]:
        student_tail_N1 = student_NV.scatter(1, teacher.ids_NK, -torch.inf).logsumexp(-1, keepdim=True)
        p_NK1 = torch.cat([p_NK1, teacher.tail_N[:, None]], dim=1)
        q_NK1 = torch.cat([q_NK1, student_tail_N1], dim=1)
    p_NK1, q_NK1 = p_NK1 / temperature, q_NK1 / temperature
    p_NK1, q_NK1 = (log_NK1 - log_NK1.logsumexp(-1, keepdim=True) for log_NK1 in (p_NK1, q_NK1))
    # 0 log 0 = 0: an empty tail of the teacher adds nothing, whatever the student's is.
    terms = torch.where(p_NK1 > -torch.inf, p_NK1.exp() * (p_NK1 - q_NK1), 0.0)
    return temperature**2 * terms.sum(-1)

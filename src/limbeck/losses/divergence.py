"""How far the student's distribution is from the teacher's, token by token."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from limbeck.losses.spec import Labels, Loss, Passes, Units
from limbeck.protocols import TopK

# N tokens, V vocabulary, K kept ids, J outcomes: the K ids, and one more for the rest where K < V


class Divergence(Loss):
    """T² D(p_T, q_T), nats per token, over the teacher's K ids and one bucket for the rest.

    The tail bucket keeps mass outside the K from being free. At temperature T the K log-probabilities are tempered and
    the tail is treated as one outcome; T² keeps the gradient's size (Hinton et al. 2015, arXiv:1503.02531).
    """

    temperature: float = Field(default=1.0, gt=0)
    needs = frozenset({"distribution"})

    @abstractmethod
    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Tensor:
        """D between teacher p and student q, shape (N,); both are log-probabilities that sum to 1 over J."""

    def between(self, student_NV: Tensor, teacher: TopK) -> Tensor:
        """The value at each token, shape (N,); `student_NV` are log-probabilities at temperature 1."""
        p_NJ, q_NJ = teacher.logprobs_NK, student_NV.gather(1, teacher.ids_NK)
        if teacher.ids_NK.shape[1] < student_NV.shape[1]:
            student_tail_N1 = student_NV.scatter(1, teacher.ids_NK, -torch.inf).logsumexp(-1, keepdim=True)
            p_NJ = torch.cat([p_NJ, teacher.tail_N[:, None]], dim=1)
            q_NJ = torch.cat([q_NJ, student_tail_N1], dim=1)
        p_NJ, q_NJ = (
            log_NJ - log_NJ.logsumexp(-1, keepdim=True) for log_NJ in (p_NJ / self.temperature, q_NJ / self.temperature)
        )
        return self.temperature**2 * self.of(p_NJ, q_NJ)

    def weights(self, labels: Labels) -> Tensor:
        return labels.weight_N * labels.taught_N

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        weight_N = self.weights(labels)
        known_N = weight_N > 0
        value_N = weight_N.new_zeros(len(weight_N))
        teacher = TopK(*(part[known_N] for part in passes.teacher))
        value_N[known_N] = self.between(passes.student_NV[known_N], teacher)
        return Units(value_N, weight_N)


def kl(log_p_NJ: Tensor, log_q_NJ: Tensor) -> Tensor:
    """KL(p || q), nats, shape (N,); what p never does adds nothing, whatever q is there (0 log 0 = 0)."""
    terms_NJ = log_p_NJ.exp() * (log_p_NJ - log_q_NJ)
    return torch.where(log_p_NJ > -torch.inf, terms_NJ, 0.0).sum(-1)


def mixed(log_p_NJ: Tensor, log_q_NJ: Tensor, *, share: float) -> Tensor:
    """Log-probabilities of share * p + (1 - share) * q, for a share in (0, 1)."""
    of_p, of_q = torch.tensor([share, 1 - share], dtype=log_p_NJ.dtype, device=log_p_NJ.device).log()
    return torch.logaddexp(log_p_NJ + of_p, log_q_NJ + of_q)

"""How far the student's distribution is from the teacher's, token by token."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from limbeck.losses.places import Places
from limbeck.losses.spec import Labels, Passes, Units
from limbeck.losses.token_loss import TokenLoss
from limbeck.protocols import TopK

# N tokens, V vocabulary, K kept ids, J outcomes: the K ids, and one more for the rest where K < V


class Divergence(TokenLoss):
    """T² D(p_T, q_T), nats per token, over the teacher's K ids and one bucket for the rest.

    The tail bucket keeps mass outside the K from being free. At temperature T the K log-probabilities are tempered and
    the tail is treated as one outcome; T² keeps the gradient's size (Hinton et al. 2015, arXiv:1503.02531).
    """

    temperature: float = Field(default=1.0, gt=0)
    needs = frozenset({"distribution"})

    @abstractmethod
    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Tensor:
        """D between teacher p and student q, shape (N,); both are log-probabilities that sum to 1 over J."""

    def between(self, student: Places, teacher: TopK | Tensor) -> Tensor:
        """The value at each token, shape (N,), to the teacher's top ids or to all of its log-probabilities (N, V).

        Where the vocabularies differ in size, the ids past the smaller one are padding and left out.
        """
        return self.temperature**2 * self.of(*self.outcomes(student, teacher))

    def outcomes(self, student: Places, teacher: TopK | Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student over the same J outcomes, at the temperature."""
        if isinstance(teacher, Tensor):
            shared = min(student.vocabulary, teacher.shape[1])
            p_NJ, q_NJ = teacher[:, :shared], student.every()[:, :shared]
            whole = shared == student.vocabulary == teacher.shape[1]
        else:
            p_NJ, (q_NJ, rest_N) = teacher.logprobs_NK, student.kept(teacher.ids_NK)
            if p_NJ.shape[1] < student.vocabulary:
                p_NJ = torch.cat([p_NJ, teacher.tail_N[:, None]], dim=1)
                q_NJ = torch.cat([q_NJ, rest_N[:, None]], dim=1)
            # Kept in half precision, they sum to 1 within a thousandth.
            p_NJ, whole = p_NJ.log_softmax(-1), True
        if self.temperature != 1.0 or not whole:
            p_NJ, q_NJ = ((log_NJ / self.temperature).log_softmax(-1) for log_NJ in (p_NJ, q_NJ))
        return p_NJ, q_NJ

    def value(self, passes: Passes, teacher: TopK | Tensor) -> Tensor:
        """The value at each token, shape (N,), where the teacher is known everywhere."""
        return self.between(passes.student, teacher)

    def weights(self, labels: Labels) -> Tensor:
        return super().weights(labels) * labels.known_N

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        known_N = labels.known_N
        if bool(known_N.all()):
            return Units(self.value(passes, passes.teacher), self.weights(labels))
        if isinstance(passes.teacher, Tensor):
            raise AssertionError("a teacher that is asked live knows every token")
        # Something finite where there is no teacher; its value is not read.
        ids_NK, logprobs_NK, tail_N = passes.teacher
        even_K = torch.full_like(logprobs_NK[0], -math.log(max(1, logprobs_NK.shape[1])))
        teacher = TopK(
            ids_NK.where(known_N[:, None], torch.arange(ids_NK.shape[1], device=ids_NK.device)),
            logprobs_NK.where(known_N[:, None], even_K),
            tail_N.where(known_N, -torch.inf),
        )
        return Units(self.value(passes, teacher).where(known_N, 0.0), self.weights(labels))


def kl(log_p_NJ: Tensor, log_q_NJ: Tensor) -> Tensor:
    """KL(p || q), nats, shape (N,); what p never does adds nothing, whatever q is there (0 log 0 = 0)."""
    terms_NJ = log_p_NJ.exp() * (log_p_NJ - log_q_NJ)
    return torch.where(log_p_NJ > -torch.inf, terms_NJ, 0.0).sum(-1)


def mixed(log_p_NJ: Tensor, log_q_NJ: Tensor, *, share: float) -> Tensor:
    """Log-probabilities of share * p + (1 - share) * q, for a share in (0, 1)."""
    of_p, of_q = torch.tensor([share, 1 - share], dtype=log_p_NJ.dtype, device=log_p_NJ.device).log()
    return torch.logaddexp(log_p_NJ + of_p, log_q_NJ + of_q)

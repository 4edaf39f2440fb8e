"""How far the student's distribution is from the teacher's, token by token."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from limbeck.losses.places import Places
from limbeck.losses.spec import Labels, Passes, Units
from limbeck.losses.token_loss import TokenLoss
from limbeck.protocols import TopK

# N tokens, V vocabulary, K kept ids, J outcomes: the K ids, and one more for the rest where K < V

# Log-probability, nats, that the student gives an outcome which counts to the rest: e to it is 0.
GONE = -1e4


class Divergence(TokenLoss):
    """T² D(p_T, q_T), nats per token, over the teacher's K ids and one bucket for the rest.

    The tail bucket keeps mass outside the K from being free. At temperature T the K log-probabilities are tempered and
    the tail is treated as one outcome; T² keeps the gradient's size (Hinton et al. 2015, arXiv:1503.02531).
    """

    temperature: float = Field(default=1.0, gt=0)
    needs = frozenset({"distribution"})

    @abstractmethod
    def of(self, log_p_NJ: Tensor, log_q_NJ: Tensor) -> Sloped:
        """D between teacher p and student q, and its slope in log q; both log-probabilities sum to 1 over J (p's of
        drawn ids in the mean)."""

    def between(self, student: Places, teacher: TopK | Tensor) -> Tensor:
        """The value at each token, shape (N,), to the teacher's top ids or to all of its log-probabilities (N, V).

        Where the vocabularies differ in size, the ids past the smaller one are padding and left out.
        """
        return self.temperature**2 * sloped(self.of, *self.outcomes(student, teacher))

    def outcomes(self, student: Places, teacher: TopK | Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student over the same J outcomes, at the temperature."""
        if isinstance(teacher, Tensor):
            shared = min(student.vocabulary, teacher.shape[1])
            p_NJ, q_NJ = teacher[:, :shared], student.every()[:, :shared]
            whole = shared == student.vocabulary == teacher.shape[1]
        else:
            p_NJ, (q_NJ, rest_N) = teacher.logprobs_NK, student.kept(teacher.ids_NK)
            if p_NJ.shape[1] < student.vocabulary:
                # What only fills a place is one of the rest, for the student too.
                fills_NK = p_NJ == -torch.inf
                if bool(fills_NK.any()):
                    filled_N = q_NJ.masked_fill(~fills_NK, -torch.inf).logsumexp(-1)
                    q_NJ, rest_N = q_NJ.masked_fill(fills_NK, GONE), torch.logaddexp(rest_N, filled_N)
                p_NJ = torch.cat([p_NJ, teacher.tail_N[:, None]], dim=1)
                q_NJ = torch.cat([q_NJ, rest_N[:, None]], dim=1)
            whole = True
        if self.temperature != 1.0 or not whole:
            p_NJ, q_NJ = ((log_NJ / self.temperature).log_softmax(-1) for log_NJ in (p_NJ, q_NJ))
        return p_NJ, q_NJ

    def value(self, passes: Passes, teacher: TopK | Tensor) -> Tensor:
        """The value at each token, shape (N,), where the teacher is known everywhere."""
        return self.between(passes.student, teacher)

    def weights(self, labels: Labels) -> Tensor:
        return super().weights(labels) * labels.known_N

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        known_N, teacher = labels.known_N, passes.teacher
        if bool(known_N.all()):
            return Units(self.value(passes, teacher), self.weights(labels))
        if isinstance(teacher, TopK):
            # Something finite where there is no teacher; its value is not read.
            ids_NK, logprobs_NK, tail_N = teacher
            even_K = torch.full_like(logprobs_NK[0], -math.log(max(1, logprobs_NK.shape[1])))
            teacher = TopK(
                ids_NK.where(known_N[:, None], torch.arange(ids_NK.shape[1], device=ids_NK.device)),
                logprobs_NK.where(known_N[:, None], even_K),
                tail_N.where(known_N, -torch.inf),
            )
        return Units(self.value(passes, teacher).where(known_N, 0.0), self.weights(labels))


class Sloped(NamedTuple):
    """A value (N,), and its gradient on the student's log-probabilities (N, J), which keep to the simplex: what is
    proportional to q in it does not matter and may be left out."""

    value_N: Tensor
    slope_NJ: Tensor


def sloped(of: Callable[[Tensor, Tensor], Sloped], log_p_NJ: Tensor, log_q_NJ: Tensor) -> Tensor:
    """The value of a divergence, whose gradient in q is the slope that it gives, and in p none.

    Written out, not traced: half of the passes over the vocabulary, and a tenth of the rounding.
    """
    with torch.no_grad():
        value_N, slope_NJ = of(log_p_NJ.detach(), log_q_NJ.detach())
    return _WithSlope.apply(log_q_NJ, value_N, slope_NJ)


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_q_NJ: Tensor, value_N: Tensor, slope_NJ: Tensor) -> Tensor:
        ctx.slope_NJ = slope_NJ
        return value_N

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        return outer[0][:, None] * ctx.slope_NJ, None, None


def expected(p_NJ: Tensor, log_NJ: Tensor) -> Tensor:
    """Σ p log, shape (N,), 0 where p is, whatever the logarithm (0 log 0 = 0); the logarithm (N, J) may be lost."""
    value_N = torch.linalg.vecdot(p_NJ.to(log_NJ.dtype), log_NJ)
    return value_N if bool(value_N.isfinite().all()) else expected_terms(p_NJ, log_NJ)[0]


def expected_terms(p_NJ: Tensor, log_NJ: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and its terms (N, J), which are written over the logarithm."""
    terms_NJ = log_NJ.mul_(p_NJ)
    value_N = terms_NJ.sum(-1)
    if not bool(value_N.isfinite().all()):
        terms_NJ.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        value_N = terms_NJ.sum(-1)
    return value_N, terms_NJ


def kl(log_p_NJ: Tensor, log_q_NJ: Tensor) -> Sloped:
    """KL(p || q), nats."""
    p_NJ = log_p_NJ.exp()
    return Sloped(expected(p_NJ, log_p_NJ - log_q_NJ), p_NJ.neg_())


def kl_from(log_q_NJ: Tensor, log_p_NJ: Tensor) -> Sloped:
    """KL(q || p), nats, sloped in q."""
    return Sloped(*expected_terms(log_q_NJ.exp(), log_q_NJ - log_p_NJ))

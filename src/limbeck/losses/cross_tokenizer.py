"""Cross-tokenizer: the teacher's distributions where its tokens are not the student's."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from limbeck.losses.divergence import kl, sloped
from limbeck.losses.places import Places
from limbeck.losses.spec import Labels, Passes, Units, log1mexp
from limbeck.losses.token_loss import TokenLoss
from limbeck.protocols import Spans

# N tokens, G spans, W ids among the outcomes, U kept ids without a counterpart, V vocabulary


class CrossTokenizer(TokenLoss):
    """KL(p || q) + γ Σ_u |p_(u) - q_(u)| at the start of each span, nats and, of the sum, no unit.

    Both tokenisations of a reply are cut into spans that end at the same byte. The outcomes at the start of one are the
    span as it is written (the product of its tokens' probabilities), the teacher's kept tokens that are a token of the
    student's too, and everything else; who says the span's first token and then something else says another thing.
    Of the kept tokens without a counterpart, the likeliest first, the sum compares how likely they are with the
    likeliest of the student's ids that are no outcome (ULD, Boizard et al. 2024, arXiv:2402.12030); γ is `sorted_l1`.
    Where both tokenizers are the same, each span is a token and this is forward KL at temperature 1. Spans after
    TRL's GOLD trainer, whose merged products are no distributions; the outcomes are ours.
    """

    kind: Literal["cross_tokenizer"] = "cross_tokenizer"
    sorted_l1: float = Field(default=1.0, ge=0)
    needs = frozenset({"spans"})

    def weights(self, labels: Labels) -> Tensor:
        return super().weights(labels) * labels.spanned_N

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        at_G = torch.nonzero(labels.spanned_N)[:, 0]
        if not len(at_G):
            return Units(torch.zeros_like(labels.taught.weight), self.weights(labels))
        started = _Started.of(passes.student, passes.spans, labels.tokens_N, at_G)
        value_G = sloped(kl, *started.outcomes())
        if self.sorted_l1 > 0:
            outcome_GW = (started.p_GW > -torch.inf) | started.first_GW
            value_G = value_G + self.sorted_l1 * _apart(passes.student, passes.spans, at_G, outcome_GW)
        value_N = value_G.new_zeros(len(labels.spanned_N)).index_put((at_G,), value_G)
        return Units(value_N, self.weights(labels))


class _Started(NamedTuple):
    """What teacher and student say at the start of spans: log-probabilities of the ids among the outcomes, of the span
    as it is written, and of everything else; of the student before what belongs to the span is taken from its first id.

    `first_GW` is where that id stands, in spans that are not one token of both; `said_G` its log-probability,
    `later_G` that of the span's other tokens, `alone_G` whether there is none.
    """

    p_GW: Tensor
    whole_G: Tensor
    tail_G: Tensor
    q_GW: Tensor
    rest_G: Tensor
    first_GW: Tensor
    said_G: Tensor
    later_G: Tensor
    alone_G: Tensor

    @classmethod
    def of(cls, student: Places, spans: Spans, tokens_N: Tensor, at_G: Tensor) -> _Started:
        kept_NW, rest_N = student.kept(spans.ids_NW)
        said_N = student.said(tokens_N)
        span_N = spans.begins_N.cumsum(0) - 1
        sizes = torch.bincount(span_N)
        later = said_N.new_zeros(len(sizes)).index_add(0, span_N, said_N.masked_fill(spans.begins_N, 0.0))
        whole_G = spans.whole_N[at_G]
        return cls(
            spans.logprobs_NW[at_G],
            whole_G,
            spans.tail_N[at_G],
            kept_NW[at_G],
            rest_N[at_G],
            (spans.ids_NW[at_G] == tokens_N[at_G, None]) & (whole_G > -torch.inf)[:, None],
            said_N[at_G],
            later[span_N[at_G]],
            sizes[span_N[at_G]] == 1,
        )

    def outcomes(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student over the same outcomes: ids, the span, everything else."""
        spare_G = (self.said_G + log1mexp(self.later_G)).masked_fill(self.alone_G, -torch.inf)
        q_GW = spare_G[:, None].where(self.first_GW, self.q_GW)
        # Ids that the teacher says nothing of are part of everything else; a floor where nothing else is left.
        least = torch.finfo(q_GW.dtype).min / 2
        others_GW = q_GW.masked_fill(self.p_GW > -torch.inf, -torch.inf)
        tail_G = torch.cat([others_GW, self.rest_G.clamp(min=least)[:, None]], dim=1).logsumexp(1)
        p_GJ = torch.cat([self.p_GW, self.whole_G[:, None], self.tail_G[:, None]], dim=1)
        q_GJ = torch.cat([q_GW, (self.said_G + self.later_G)[:, None], tail_G[:, None]], dim=1)
        # Kept in half precision, the teacher's sum to 1 within a thousandth.
        return p_GJ.log_softmax(-1), q_GJ


def _apart(student: Places, spans: Spans, at_G: Tensor, outcome_GW: Tensor) -> Tensor:
    """Sum over the teacher's kept ids without a counterpart of how far their probabilities are from those of as many of
    the student's likeliest ids that are no outcome."""
    odd_NU = spans.odd_NU[:, : student.vocabulary].exp()
    has_G = (odd_NU[at_G] > 0).any(1)
    value_G = torch.zeros_like(has_G, dtype=odd_NU.dtype)
    if not bool(has_G.any()):
        return value_G
    some = at_G[has_G]
    logprobs_NV = student.every()[some]
    taken_NV = torch.zeros_like(logprobs_NV, dtype=torch.bool).scatter(1, spans.ids_NW[some], outcome_GW[has_G])
    likeliest_NU = logprobs_NV.masked_fill(taken_NV, -torch.inf).topk(odd_NU.shape[1], dim=1).values.exp()
    apart_N = (likeliest_NU - odd_NU[some]).abs().where(odd_NU[some] > 0, 0.0).sum(1)
    return value_G.index_put((has_G,), apart_N)

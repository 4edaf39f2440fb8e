"""The value across tokenizers, where it can be worked out by hand, on whole log-probabilities and in the fused head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.fused import Source, Work, fused
from limbeck.losses.places import FullPlaces
from limbeck.losses.spec import Counts, Labels, Passes
from limbeck.models.head import Head
from limbeck.protocols import Spans

# "to be": the student's "to" 0, " b" 1, "e" 2; "a" is 3. The teacher writes "t|o" and " be".
TOKENS = torch.tensor([0, 1, 2])
STUDENT_NV = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.3, 0.4, 0.2, 0.1], [0.2, 0.2, 0.5, 0.1]], dtype=torch.float64)


def logs(p: list[float] | list[list[float]]) -> Tensor:
    return torch.tensor(p, dtype=torch.float64).log()


# What tests/targets/test_spans.py works out, and in each row an id without an outcome: 3 or, in the last, 0 too.
SPANS = Spans(
    torch.tensor([True, True, False]),
    torch.tensor([True, True, False]),
    torch.tensor([[0, 3], [1, 3], [0, 1]]),
    logs([[0.0, 0.0], [0.1, 0.0], [0.0, 0.0]]),
    logs([0.4, 0.7, 0.0]),
    logs([[0.3, 0.2], [0.1, 0.0], [0.0, 0.0]]),
    logs([0.6, 0.2, 0.0]),
)


def said(spans: Spans, student: FullPlaces) -> tuple[Passes, Labels]:
    """Passes and labels of which the loss reads what is here."""
    share = Counts(torch.ones(3, dtype=torch.float64), torch.ones(3), torch.zeros(3, dtype=torch.bool))
    passes = Passes(student=student, spans=spans, **dict.fromkeys(set(Passes._fields) - {"student", "spans"}))  # type: ignore[arg-type]
    own = {"taught": share, "tokens_N": TOKENS, "position_N": torch.arange(3), "spanned_N": spans.known_N}
    return passes, Labels(**own, **dict.fromkeys(set(Labels._fields) - set(own)))  # type: ignore[arg-type]


def test_a_span_is_compared_as_one() -> None:
    # "to": .4 against .5 and the rest; .4 log .8 + .6 log 1.2 = 0.02013.
    # " be": the span .7 against .4 * .5, " b" and then something else .1 against .4 * .5, the rest .2 against .6:
    # .7 log 3.5 + .1 log .5 + .2 log 1/3 = 0.58790.
    value, weight = CrossTokenizer(sorted_l1=0.0)(*said(SPANS, FullPlaces(STUDENT_NV.log())))
    assert value.tolist() == pytest.approx([0.02013, 0.58790, 0.0], abs=1e-4)
    assert weight.tolist() == [1.0, 1.0, 0.0]


def test_kept_tokens_without_a_counterpart_are_compared_by_their_rank() -> None:
    # Of "t and then something else" .3 and "ta" .2 the student has no token: its likeliest ids that are no outcome have
    # .3 and .1, which is |0| + |.1| away; in the second span .1 stands against .3.
    value, _ = CrossTokenizer(sorted_l1=2.0)(*said(SPANS, FullPlaces(STUDENT_NV.log())))
    assert value.tolist() == pytest.approx([0.02013 + 2 * 0.1, 0.58790 + 2 * 0.2, 0.0], abs=1e-4)


def test_a_student_that_says_what_the_teacher_says_costs_nothing_and_is_not_pulled() -> None:
    # .4 for "to"; for " b" .8, and .875 for "e" after it: .7 for both, .1 for " b" and then something else.
    logits_NV = logs([[0.4, 0.2, 0.3, 0.1], [0.1, 0.8, 0.05, 0.05], [0.05, 0.05, 0.875, 0.025]]).requires_grad_()
    value, _ = CrossTokenizer(sorted_l1=0.0)(*said(SPANS, FullPlaces(logits_NV.log_softmax(-1))))
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-9, rtol=0)
    (slope,) = torch.autograd.grad(value.sum(), logits_NV)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


def test_the_same_text_in_one_token_leaves_nothing_of_it_to_say_otherwise() -> None:
    # A student that is certain of "to": .4 log .4/1 and .6 against nothing, which is large and finite.
    certain_NV = torch.tensor([[50.0, 0.0, 0.0, 0.0]] * 3, requires_grad=True)
    value, _ = CrossTokenizer(sorted_l1=0.0)(
        *said(
            Spans(*(one.float() if one.is_floating_point() else one for one in SPANS)),
            FullPlaces(certain_NV.log_softmax(-1)),
        )
    )
    assert 10 < float(value[0].detach()) < 60
    value.sum().backward()
    assert certain_NV.grad is not None and bool(certain_NV.grad.isfinite().all())


@pytest.mark.parametrize("sorted_l1", [0.0, 1.0])
def test_in_the_fused_head_value_and_gradients_are_those_of_the_plain_formula(sorted_l1: float) -> None:
    loss, noise = CrossTokenizer(sorted_l1=sorted_l1), torch.Generator().manual_seed(5)
    layer = nn.Linear(5, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 5, generator=noise, dtype=torch.float64))
    head = Head(layer, 1.0, None)
    hidden_UH = torch.randn(3, 5, generator=noise, dtype=torch.float64).requires_grad_()

    def value_of(student: FullPlaces) -> Tensor:
        return loss(*said(SPANS, student)).value.sum()

    works = [Work(None, (torch.arange(3),), SPANS.ids_NW)]
    found = fused(lambda _, blocks: value_of(blocks[0])[None], works, [Source(head, hidden_UH)]).sum()  # type: ignore[arg-type]
    plain = value_of(FullPlaces(head.logits(hidden_UH).log_softmax(-1)))
    torch.testing.assert_close(found, plain)
    learnt = [hidden_UH, layer.weight]
    for one, other in zip(torch.autograd.grad(found, learnt), torch.autograd.grad(plain, learnt), strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_known_is_nothing_to_learn() -> None:
    nothing = SPANS._replace(known_N=torch.zeros(3, dtype=torch.bool))
    value, weight = CrossTokenizer()(*said(nothing, FullPlaces(STUDENT_NV.log())))
    assert value.tolist() == weight.tolist() == [0.0] * 3 and math.isfinite(float(value.sum()))

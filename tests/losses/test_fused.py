"""The fused head against the plain formula: all logits at once, in float64, by ordinary autograd.

Axes: U places, N of them in use, K kept ids, V vocabulary, H hidden.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from limbeck.losses import LOSSES
from limbeck.losses.anti_teacher import AntiTeacher
from limbeck.losses.divergence import Divergence
from limbeck.losses.fused import Block, Source, Work, fused
from limbeck.losses.places import FullPlaces, Places
from limbeck.losses.spec import Passes
from limbeck.models.head import Head
from limbeck.protocols import TopK

U, N, V, H = 9, 7, 11, 5
ROWS = torch.tensor([8, 0, 3, 3, 5, 1, 7])  # one place twice, two never
DIVERGENCES = [member for member in LOSSES.values() if issubclass(member, Divergence)]
HEADS = {
    "plain": Head(nn.Linear(H, V, bias=False), 1.0, None),
    "bias": Head(nn.Linear(H, V), 1.0, None),
    "scaled": Head(nn.Linear(H, V, bias=False), 0.25, None),
    "capped": Head(nn.Linear(H, V, bias=False), 1.5, 2.0),
}


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def head_of(name: str, dtype: torch.dtype = torch.float64) -> Head:
    head = HEADS[name]
    layer = nn.Linear(H, V, bias=head.bias_V is not None, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(noise(V, H))
        if layer.bias is not None:
            layer.bias.copy_(noise(V))
    return head._replace(layer=layer.to(dtype))


def teacher(top: int | None) -> TopK | Tensor:
    logprobs_NV = noise(N, V + 1)[:, :V].log_softmax(-1)
    if top is None:
        return logprobs_NV
    logprobs_NK, ids_NK = logprobs_NV.topk(top)
    return TopK(ids_NK, logprobs_NK, (1 - logprobs_NK.exp().sum(-1)).clamp(min=0).log())


def single(given: TopK | Tensor) -> TopK | Tensor:
    return given.float() if isinstance(given, Tensor) else TopK(given[0], given[1].float(), given[2].float())


def part(given: TopK | Tensor, some: Tensor) -> TopK | Tensor:
    return given[some] if isinstance(given, Tensor) else TopK(*(column[some] for column in given))


def in_blocks(
    value_of: Callable[[Places, Tensor], Tensor],
    head: Head,
    hidden_UH: Tensor,
    *,
    rows: int,
    kept_NK: Tensor | None = None,
) -> Tensor:
    """The sum of a value over N places, so many rows at a time."""
    works = (
        Work(some, (ROWS[some],), None if kept_NK is None else kept_NK[some]) for some in torch.arange(N).split(rows)
    )
    return fused(lambda some, blocks: value_of(blocks[0], some).sum()[None], works, [Source(head, hidden_UH)]).sum()


def agree(value_of: Callable[[Places, Tensor], Tensor], head: Head, *, rows: int, kept_NK: Tensor | None) -> None:
    """Value and every gradient are those of the plain formula."""
    hidden_UH = noise(U, H).requires_grad_()
    learnt = [hidden_UH, *head.layer.parameters()]
    plain = value_of(FullPlaces(head.logits(hidden_UH[ROWS]).log_softmax(-1)), torch.arange(N)).sum()
    found = in_blocks(value_of, head, hidden_UH, rows=rows, kept_NK=kept_NK)
    torch.testing.assert_close(found, plain)
    for one, other in zip(torch.autograd.grad(3 * found, learnt), torch.autograd.grad(3 * plain, learnt), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rows", [1, 3, N])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("top", [1, 4, V, None])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_every_divergence_is_that_of_the_plain_formula(
    kind: type[Divergence], top: int | None, head: str, rows: int
) -> None:
    given = teacher(top)
    loss = kind(temperature=2.0 if head == "bias" else 1.0)
    kept_NK = None if isinstance(given, Tensor) else given.ids_NK
    agree(lambda places, some: loss.between(places, part(given, some)), head_of(head), rows=rows, kept_NK=kept_NK)


def test_ids_that_were_not_announced_are_kept_as_well() -> None:
    given = teacher(3)
    loss = DIVERGENCES[0]()
    agree(lambda places, some: loss.between(places, part(given, some)), head_of("plain"), rows=3, kept_NK=None)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_single_tokens_at_a_temperature_beside_kept_ids(temperature: float) -> None:
    # Token 2 stands among the kept ids of some places; place 0 is asked twice.
    kept_NK = torch.tensor([[1, 2], [2, 3], [4, 5], [0, 10], [2, 9], [6, 7], [8, 2]])

    def value_of(places: Places, some: Tensor) -> Tensor:
        at_P = torch.tensor([0, 0, len(some) - 1])
        said_P = places.said(torch.tensor([2, 4, 2]), at_P=at_P, temperature=temperature)
        return said_P.sum() + places.kept(kept_NK[some]).rest_N.sum() + places.said(torch.full_like(some, 3)).sum()

    agree(value_of, head_of("capped"), rows=N, kept_NK=kept_NK)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_some_ids_and_all_others_at_a_temperature_beside_kept_ids(temperature: float) -> None:
    ids_K, kept_NK = torch.tensor([2, 5, 7]), torch.arange(2).expand(N, 2)

    def value_of(places: Places, some: Tensor) -> Tensor:
        among = places.among(ids_K, at_P=torch.arange(len(some)).flip(0), temperature=temperature)
        kept = places.kept(kept_NK[some])
        return among.logprobs_NK @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 3 * among.rest_N + kept.rest_N

    agree(value_of, head_of("bias"), rows=3, kept_NK=kept_NK)


def test_two_objectives_have_gradients_of_their_own() -> None:
    head, hidden_UH, given = head_of("plain"), noise(U, H).requires_grad_(), teacher(4)
    assert isinstance(given, TopK)

    def both(some: Tensor, blocks: Sequence[Places]) -> Tensor:
        divergence = DIVERGENCES[0]().between(blocks[0], part(given, some)).sum()
        return torch.stack([divergence, blocks[0].said(some).sum()])

    works = [Work(some, (ROWS[some],), given.ids_NK[some]) for some in torch.arange(N).split(3)]
    values_G = fused(both, works, [Source(head, hidden_UH)])
    places = FullPlaces(head.logits(hidden_UH[ROWS]).log_softmax(-1))
    plain = [DIVERGENCES[0]().between(places, given).sum(), places.said(torch.arange(N)).sum()]
    for found, expected in zip(values_G, plain, strict=True):
        slope, slope_plain = (torch.autograd.grad(one, hidden_UH, retain_graph=True)[0] for one in (found, expected))
        torch.testing.assert_close(slope, slope_plain)


def test_two_hidden_inputs_are_read_side_by_side() -> None:
    head, one_UH, other_UH = head_of("plain"), noise(U, H).requires_grad_(), (2 * noise(U, H)).requires_grad_()

    def apart(some: Tensor, blocks: Sequence[Places]) -> Tensor:
        return (blocks[0].every().exp() * blocks[1].every()).sum()[None]

    works = [Work(some, (ROWS[some], some)) for some in torch.arange(N).split(2)]
    found = fused(apart, works, [Source(head, one_UH), Source(head, other_UH)])
    p_NV, q_NV = head.logits(one_UH[ROWS]).softmax(-1), head.logits(other_UH[:N]).log_softmax(-1)
    plain = (p_NV * q_NV).sum()
    torch.testing.assert_close(found.sum(), plain)
    for slope, expected in zip(
        torch.autograd.grad(found.sum(), [one_UH, other_UH]),
        torch.autograd.grad(plain, [one_UH, other_UH]),
        strict=True,
    ):
        torch.testing.assert_close(slope, expected)


def test_what_learns_nothing_is_read_beside_what_does() -> None:
    head, frozen = head_of("plain"), head_of("scaled")
    frozen.layer.requires_grad_(False)
    hidden_UH, teacher_UH = noise(U, H).requires_grad_(), 2 * noise(U, H)

    def away(some: Tensor, places: Sequence[Places]) -> Tensor:
        return DIVERGENCES[0]().between(places[0], places[1].every()).sum()[None]

    works = [Work(some, (ROWS[some], some)) for some in torch.arange(N).split(2)]
    found = fused(away, works, [Source(head, hidden_UH), Source(frozen, teacher_UH)]).sum()
    teacher_NV = frozen.logits(teacher_UH[:N]).log_softmax(-1)
    plain = DIVERGENCES[0]().between(FullPlaces(head.logits(hidden_UH[ROWS]).log_softmax(-1)), teacher_NV).sum()
    torch.testing.assert_close(found, plain)
    for one, other in zip(
        torch.autograd.grad(found, [hidden_UH, head.weight_VH]),
        torch.autograd.grad(plain, [hidden_UH, head.weight_VH]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("top", [1, 4, V, None])
def test_the_anti_teacher_hears_the_untrained_model_in_the_same_blocks(top: int | None) -> None:
    head, frozen, given, loss = head_of("plain"), head_of("scaled"), teacher(top), AntiTeacher(least=0.0)
    frozen.layer.requires_grad_(False)
    hidden_UH, base_UH = noise(U, H).requires_grad_(), 2 * noise(U, H)

    def heard(some: Tensor, places: Sequence[Places]) -> Tensor:
        passes = cast(Passes, SimpleNamespace(student=places[0], base=places[1]))
        return loss.value(passes, part(given, some)).sum()[None]

    works = [Work(some, (ROWS[some], ROWS[some])) for some in torch.arange(N).split(2)]
    found = fused(heard, works, [Source(head, hidden_UH), Source(frozen, base_UH)]).sum()
    read = ((head, hidden_UH), (frozen, base_UH))
    whole = [FullPlaces(one.logits(at_UH[ROWS]).log_softmax(-1)) for one, at_UH in read]
    plain = heard(torch.arange(N), whole).sum()
    torch.testing.assert_close(found, plain)
    learnt = [hidden_UH, head.weight_VH]
    for one, other in zip(torch.autograd.grad(found, learnt), torch.autograd.grad(plain, learnt), strict=True):
        torch.testing.assert_close(one, other)


def test_a_frozen_head_gets_no_gradient() -> None:
    head, hidden_UH = head_of("bias"), noise(U, H).requires_grad_()
    head.layer.requires_grad_(False)
    in_blocks(lambda places, some: places.said(some), head, hidden_UH, rows=2).backward()
    assert head.weight_VH.grad is None and hidden_UH.grad is not None


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("top", [4, None])
def test_single_precision_agrees_with_double_to_a_hundred_thousandth(kind: type[Divergence], top: int | None) -> None:
    exact = noise(U, H).requires_grad_()
    hidden32_UH = exact.detach().float().requires_grad_()
    given = teacher(top)
    found, found32 = (
        in_blocks(lambda places, some, of=of: kind().between(places, part(of, some)), head, hidden, rows=3)
        for of, head, hidden in (
            (given, head_of("plain"), exact),
            (single(given), head_of("plain", torch.float32), hidden32_UH),
        )
    )
    torch.testing.assert_close(found32.double(), found, rtol=1e-5, atol=0)
    found.backward(), found32.backward()
    assert exact.grad is not None and hidden32_UH.grad is not None
    assert float((hidden32_UH.grad - exact.grad).norm() / exact.grad.norm()) < 1e-5


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("top", [4, None])
def test_a_head_in_half_precision_is_off_by_what_its_products_round_to(kind: type[Divergence], top: int | None) -> None:
    # What goes in is the same in both: bfloat16 has 8 bits, so a logit is off by up to 2^-9 of itself.
    given, head, hidden_UH = teacher(top), head_of("plain", torch.bfloat16), noise(U, H).bfloat16().requires_grad_()
    exact = head._replace(layer=copy.deepcopy(head.layer).double())
    exact_UH = hidden_UH.detach().double().requires_grad_()
    loss, given32 = kind(), single(given)
    found = in_blocks(lambda places, some: loss.between(places, part(given32, some)), head, hidden_UH, rows=3)
    plain = loss.between(FullPlaces(exact.logits(exact_UH[ROWS]).log_softmax(-1)), given).sum()
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(float(plain.detach()), rel=1e-2)
    (slope,) = torch.autograd.grad(found, hidden_UH)
    (exactly,) = torch.autograd.grad(plain, exact_UH)
    assert float((slope.double() - exactly).norm() / exactly.norm()) < 1e-2


@pytest.mark.parametrize("margin", [15.0, 17.0, 30.0, 80.0])
def test_a_token_that_the_student_is_certain_of_is_pushed_down_exactly(margin: float) -> None:
    # Of V - 1 others with logit 0 and one with m: 1 - q = (V - 1) / (V - 1 + e^m), so -log(1 - q) = m - log(V - 1)
    # - log q. Its gradient is q on the token's own logit and -q / (V - 1) on each other.
    logits_NV = torch.zeros(2, V).scatter(1, torch.tensor([[3], [6]]), margin)
    block = Block(logits_NV, torch.tensor([[3], [6]]))
    with torch.enable_grad():
        value = -block.kept(torch.tensor([[3], [6]])).rest_N.sum()
    slope_NV = block.slope(value, last=True)
    q = 1 / (1 + (V - 1) * math.exp(-margin))
    assert float(value.detach()) == pytest.approx(2 * (margin - math.log(V - 1) - math.log(q)), rel=1e-5)
    expected_NV = torch.full((2, V), -q / (V - 1)).scatter(1, torch.tensor([[3], [6]]), q)
    torch.testing.assert_close(slope_NV, expected_NV, rtol=1e-4, atol=1e-8)

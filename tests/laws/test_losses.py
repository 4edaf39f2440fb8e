"""What holds for every loss, and the values of each on data whose answer can be worked out by hand.

Axes: N taught tokens, R rejected tokens, B deciding prompts, L pairs, C anchors, K kept ids, V vocabulary, H hidden.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from limbeck.losses import LOSSES
from limbeck.losses.anti_teacher import AntiTeacher
from limbeck.losses.contrastive import Contrastive
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.decision import Decision
from limbeck.losses.divergence import Divergence
from limbeck.losses.drift import Drift
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.fused import Block
from limbeck.losses.hidden_states import HiddenStates
from limbeck.losses.jensen_shannon import JensenShannon
from limbeck.losses.noise import Noise
from limbeck.losses.noise_consistency import NoiseConsistency
from limbeck.losses.places import FullPlaces
from limbeck.losses.preference import Preference
from limbeck.losses.prompt_contrast import PromptContrast
from limbeck.losses.reverse_kl import ReverseKL
from limbeck.losses.skew_kl import SkewKL
from limbeck.losses.skew_reverse_kl import SkewReverseKL
from limbeck.losses.spec import Aligned, Contrasts, Counts, Labels, Loss, Openings, Pairs, Passes, log1mexp
from limbeck.losses.total_variation import TotalVariation
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.protocols import Spans, TopK

N, R, B, L, C, K, V, H = 6, 4, 4, 4, 4, 3, 7, 5
DIVERGENCES = (ForwardKL, ReverseKL, JensenShannon, SkewKL, SkewReverseKL, TotalVariation)
LAYER = 20
# The first loss of each kind as a recipe has it by default, and others as they may be set.
MEMBERS = [
    *(member() for member in LOSSES.values()),
    CrossEntropy(decision_window=2),
    AntiTeacher(least=0.0),
    HiddenStates(distance="mse"),
    CrossTokenizer(sorted_l1=0.0, decision_window=2),
]
EVERY_LOSS = pytest.mark.parametrize("loss", MEMBERS, ids=lambda loss: loss.kind)
EVERY_DIVERGENCE = pytest.mark.parametrize("kind", DIVERGENCES)


class Model(NamedTuple):
    """What a student would give, as leaves that gradients are left on."""

    taught_NV: Tensor
    rejected_RV: Tensor
    refuses_B: Tensor
    noisy_NV: Tensor
    chosen_L: Tensor
    avoided_L: Tensor
    anchors_CH: Tensor
    states_NH: Tensor


def model(dtype: torch.dtype = torch.float64) -> Model:
    noise = torch.Generator().manual_seed(1)
    sizes = ((N, V), (R, V), (B,), (N, V), (L,), (L,), (C, H), (N, H))
    leaves = (torch.randn(*size, generator=noise, dtype=torch.float64) for size in sizes)
    return Model(*(leaf.to(dtype).requires_grad_() for leaf in leaves))


def share(weight: list[float], dtype: torch.dtype) -> Counts:
    """Units of those weights; the second half belongs to harmful prompts."""
    harmful = torch.arange(len(weight)) >= len(weight) // 2
    return Counts(torch.tensor(weight, dtype=dtype), torch.ones(len(weight), dtype=dtype), harmful)


def given(dtype: torch.dtype = torch.float64, *, top: int = K) -> tuple[Labels, TopK]:
    """Labels with whole, partial and no weight, and a teacher that knows all taught tokens but one."""
    noise = torch.Generator().manual_seed(2)
    teacher_NV = torch.randn(N, V, generator=noise, dtype=torch.float64).log_softmax(-1)
    labels = Labels(
        taught=share([1.0, 0.5, 1.0, 0.0, 1.0, 0.25], dtype),
        rejected=share([1.0, 0.5, 0.0, 1.0], dtype),
        prompts=share([1.0, 1.0, 0.5, 0.0], dtype),
        pairs=share([1.0, 0.0, 0.5, 1.0], dtype),
        contrasts=share([1.0, 0.5, 0.0, 1.0], dtype),
        reply_contrasts=share([1.0, 0.5, 0.0, 1.0], dtype),
        states=share([1.0, 0.5, 1.0, 0.0, 1.0, 0.25], dtype),
        tokens_N=torch.tensor([0, 1, 2, 3, 4, 5]),
        position_N=torch.tensor([0, 1, 2, 3, 0, 1]),
        known_N=torch.tensor([True, True, False, True, True, True]),
        spanned_N=torch.tensor([True, True, False, True, True, False]),
        rejected_R=torch.tensor([6, 5, 4, 3]),
        risk_B=torch.tensor([1.0, 0.0, 0.3, 1.0], dtype=dtype),
    )
    return labels, top_of(teacher_NV, top, dtype)


def spans(tokens_N: Tensor, dtype: torch.dtype) -> Spans:
    """A teacher with another tokenizer: the last two tokens are one span, a kept id of the second has no counterpart,
    and of the third nothing is known. In slots without an outcome stands an id that the row does not have."""
    p_NW = [[0.5, 0.2, 0.0], [0.4, 0.1, 0.2], [0.0, 0.0, 0.0], [0.6, 0.0, 0.0], [0.1, 0.3, 0.0], [0.0, 0.0, 0.0]]
    whole = Spans(
        torch.tensor([True, True, True, True, True, False]),
        torch.tensor([True, True, False, True, True, False]),
        torch.tensor([[0, 3, 1], [1, 6, 2], [0, 1, 2], [3, 0, 1], [4, 2, 0], [0, 1, 2]]),
        torch.tensor(p_NW, dtype=dtype).log(),
        torch.tensor([0.0, 0.0, 0.0, 0.0, 0.4, 0.0], dtype=dtype).log(),
        torch.tensor([[0.0], [0.2], [0.0], [0.0], [0.0], [0.0]], dtype=dtype).log(),
        torch.tensor([0.3, 0.3, 0.0, 0.4, 0.2, 0.0], dtype=dtype).log(),
    )
    return Spans(*(column[tokens_N] for column in whole))


def top_of(teacher_NV: Tensor, top: int, dtype: torch.dtype) -> TopK:
    logprobs_NK, ids_NK = teacher_NV.topk(top, dim=-1)
    tail_N = torch.log((1 - logprobs_NK.exp().sum(-1)).clamp(min=0)) if top < teacher_NV.shape[1] else None
    full = torch.full((len(teacher_NV),), -math.inf, dtype=dtype)
    return TopK(ids_NK, logprobs_NK.to(dtype), full if tail_N is None else tail_N.to(dtype))


def passes(logits: Model, labels: Labels, teacher: TopK) -> Passes:
    noise = torch.Generator().manual_seed(3)
    dtype = logits.taught_NV.dtype
    # A row for each token, whichever of them are there.
    base_NV = torch.randn(N, V, generator=noise, dtype=torch.float64)[labels.tokens_N].to(dtype)
    others_SH = torch.randn(3, H, generator=noise, dtype=torch.float64).to(dtype)
    told_NH = torch.randn(N, H, generator=noise, dtype=torch.float64)[labels.tokens_N].to(dtype)
    anchors = torch.arange(len(logits.anchors_CH))
    others_CM = (len(anchors) + torch.arange(3)).expand(len(anchors), 3)
    beside = Contrasts(
        {LAYER: torch.cat([logits.anchors_CH, others_SH])}, anchors, others_CM, torch.ones_like(others_CM).bool()
    )
    return Passes(
        student=FullPlaces(logits.taught_NV.log_softmax(-1)),
        rejected=FullPlaces(logits.rejected_RV.log_softmax(-1)),
        openings=openings(torch.nn.functional.logsigmoid(logits.refuses_B)),
        teacher=teacher,
        spans=spans(labels.tokens_N, dtype),
        base=FullPlaces(base_NV.log_softmax(-1)),
        noisy={Noise(): FullPlaces(logits.noisy_NV.log_softmax(-1))},
        pairs=Pairs(
            logits.chosen_L, logits.avoided_L, torch.zeros_like(logits.chosen_L), torch.ones_like(logits.avoided_L)
        ),
        contrasts=beside,
        reply_contrasts=beside,
        states={(LAYER, LAYER): Aligned(logits.states_NH, told_NH)},
    )


def openings(refusing_B: Tensor) -> Openings:
    """One opening of one token, with those log-probabilities, against a vocabulary of one other token."""
    logprobs_DV = torch.stack([refusing_B, log1mexp(refusing_B)], dim=1)
    return Openings(FullPlaces(logprobs_DV), torch.arange(len(refusing_B))[:, None], torch.tensor([0]), (1,))


def pull(loss: Loss, logits: Model, labels: Labels, teacher: TopK) -> Tensor:
    """The unnormalised sum: every value times its weight."""
    value, weight = loss(passes(logits, labels, teacher), labels)
    return (value * weight).sum()


def gradients(total: Tensor, logits: Model) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(total, list(logits), allow_unused=True)
    return tuple(torch.zeros_like(leaf) if one is None else one for leaf, one in zip(logits, found, strict=True))


def rows(logits: Model, labels: Labels, teacher: TopK, part: slice) -> tuple[Model, Labels, TopK]:
    return (
        Model(*(leaf[part] for leaf in logits)),
        labels.only(taught=part, rejected=part, prompts=part, pairs=part, beside=part, states=part),
        TopK(*(column[part] for column in teacher)),
    )


def test_the_table_holds_each_loss_under_its_own_kind() -> None:
    of_replies = (AntiTeacher, Unlikelihood, Preference, Drift, NoiseConsistency, HiddenStates)
    others = (CrossTokenizer, Decision, *of_replies, Contrastive, PromptContrast)
    assert dict(LOSSES) == {member().kind: member for member in (CrossEntropy, *DIVERGENCES, *others)}


@EVERY_LOSS
def test_a_loss_gives_one_value_and_one_weight_a_unit_and_the_weight_is_known_before(loss: Loss) -> None:
    labels, teacher = given()
    value, weight = loss(passes(model(), labels, teacher), labels)
    assert value.shape == weight.shape == loss.weights(labels).shape
    assert torch.equal(weight, loss.weights(labels))


@EVERY_LOSS
def test_a_loss_pulls_somewhere(loss: Loss) -> None:
    logits = model()
    assert sum(float(one.abs().sum()) for one in gradients(pull(loss, logits, *given()), logits)) > 0.1


@EVERY_LOSS
def test_a_batch_cut_in_two_gives_the_same_gradient(loss: Loss) -> None:
    logits, (labels, teacher) = model(), given()
    whole = gradients(pull(loss, logits, labels, teacher), logits)
    halves = [pull(loss, *rows(logits, labels, teacher, part)) for part in (slice(0, 2), slice(2, None))]
    cut = gradients(halves[0] + halves[1], logits)
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other)


@EVERY_LOSS
def test_twice_the_weight_pulls_twice_as_hard(loss: Loss) -> None:
    logits, (labels, teacher) = model(), given()
    doubled = Labels(
        *(one._replace(weight=2 * one.weight) if isinstance(one, Counts) else one for one in labels)  # type: ignore[arg-type]
    )
    once = gradients(pull(loss, logits, labels, teacher), logits)
    twice = gradients(pull(loss, logits, doubled, teacher), logits)
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(two, 2 * one)


@EVERY_LOSS
def test_weightless_units_do_not_matter(loss: Loss) -> None:
    logits, (labels, teacher) = model(), given()
    weightless = (3, 2, 3, 3, 1, 1, 2, 3)
    other = Model(*(leaf.detach().clone() for leaf in logits))
    for leaf, at in zip(other, weightless, strict=True):
        leaf[at] += 5 * torch.arange(leaf[at].numel()).view_as(leaf[at]) + 1
    leaves = Model(*(leaf.requires_grad_() for leaf in other))
    changed = pull(loss, leaves, labels, teacher)
    torch.testing.assert_close(changed, pull(loss, logits, labels, teacher))
    slopes = gradients(changed, leaves)
    assert [float(one[at].abs().sum()) for one, at in zip(slopes, weightless, strict=True)] == [0] * len(Model._fields)


@EVERY_LOSS
def test_a_loss_of_nothing_is_an_empty_value_and_not_a_number_out_of_nowhere(loss: Loss) -> None:
    nothing = rows(model(), *given(), slice(0, 0))
    value, weight = loss(passes(*nothing), nothing[1])
    assert value.shape == weight.shape == (0,)


@EVERY_LOSS
def test_gradients_match_finite_differences_in_float64(loss: Loss) -> None:
    logits, (labels, teacher) = model(), given()
    if isinstance(loss, NoiseConsistency):  # the undisturbed side is held
        logits = logits._replace(taught_NV=logits.taught_NV.detach())
    sum_of = lambda *leaves: pull(loss, Model(*leaves), labels, teacher)  # noqa: E731
    assert torch.autograd.gradcheck(sum_of, tuple(logits))


@EVERY_LOSS
def test_float32_agrees_with_float64(loss: Loss) -> None:
    exact, single = model(), model(torch.float32)
    total, total32 = pull(loss, exact, *given()), pull(loss, single, *given(torch.float32))
    torch.testing.assert_close(total32.double(), total, rtol=1e-5, atol=0)
    for one, other in zip(gradients(total, exact), gradients(total32, single), strict=True):
        assert float((other.double() - one).norm()) <= 1e-5 * float(one.norm())


def test_cross_entropy_of_one_token_in_four_is_log_four() -> None:
    labels, teacher = given()
    even = passes(model(), labels, teacher)._replace(student=FullPlaces(torch.full((N, 4), -math.log(4))))
    value, _ = CrossEntropy()(even, labels._replace(tokens_N=torch.tensor([0, 1, 2, 3, 0, 1])))
    torch.testing.assert_close(value, torch.full((N,), math.log(4)))


@EVERY_DIVERGENCE
@pytest.mark.parametrize("top", [1, K, V])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_divergence_is_zero_when_both_agree(kind: type[Divergence], top: int, temperature: float) -> None:
    student_NV = model().taught_NV.log_softmax(-1)
    teacher = top_of(student_NV.detach(), top, torch.float64)
    value_N = kind(temperature=temperature).between(FullPlaces(student_NV), teacher)
    torch.testing.assert_close(value_N, torch.zeros_like(value_N), atol=1e-6, rtol=0)
    # Total variation has a kink there.
    if kind is not TotalVariation:
        (gradient,) = torch.autograd.grad(value_N.sum(), student_NV)
        # Along the simplex: log-probabilities can only move so that the probabilities still sum to one.
        along = gradient - student_NV.exp() * gradient.sum(-1, keepdim=True)
        torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_weight_below_0_would_teach_the_contrary_and_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        LOSSES[kind](weight=-1.0)


@EVERY_DIVERGENCE
def test_a_divergence_is_never_negative_and_no_smaller_with_more_ids_kept(kind: type[Divergence]) -> None:
    # Joining outcomes can only hide a difference (data processing).
    student_NV = model().taught_NV.log_softmax(-1)
    one, some, every = (kind().between(FullPlaces(student_NV), given(top=top)[1]) for top in (1, K, V))
    assert bool((one >= 0).all() and (some >= one - 1e-9).all() and (every >= some - 1e-9).all())


@EVERY_DIVERGENCE
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_divergence_over_all_ids_is_the_plain_formula(kind: type[Divergence], temperature: float) -> None:
    _, teacher = given(top=V)
    student_NV = model().taught_NV.log_softmax(-1)
    teacher_NV = torch.zeros_like(student_NV).scatter(1, teacher.ids_NK, teacher.logprobs_NK)
    p, q = ((log_NV / temperature).softmax(-1) for log_NV in (teacher_NV, student_NV))
    plain = {
        ForwardKL: (p * (p / q).log()).sum(-1),
        ReverseKL: (q * (q / p).log()).sum(-1),
        JensenShannon: 2 * (p * (2 * p / (p + q)).log() + q * (2 * q / (p + q)).log()).sum(-1),
        SkewKL: (p * (p / (0.1 * p + 0.9 * q)).log()).sum(-1),
        SkewReverseKL: (q * (q / (0.9 * p + 0.1 * q)).log()).sum(-1),
        TotalVariation: (p - q).abs().sum(-1) / 2,
    }
    found = kind(temperature=temperature).between(FullPlaces(student_NV), teacher)
    torch.testing.assert_close(found, temperature**2 * plain[kind])


@pytest.mark.parametrize(("beta", "limit"), [(1e-6, ForwardKL), (1 - 1e-6, ReverseKL)])
def test_jensen_shannon_has_both_kl_as_its_limits(beta: float, limit: type[Divergence]) -> None:
    student_NV, teacher = model().taught_NV.log_softmax(-1), given()[1]
    found, ends = (
        JensenShannon(beta=beta).between(FullPlaces(student_NV), teacher),
        limit().between(FullPlaces(student_NV), teacher),
    )
    torch.testing.assert_close(found, ends, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [JensenShannon(), SkewKL(), SkewReverseKL(), TotalVariation(), ReverseKL()])
def test_what_the_teacher_never_says_costs_much_and_stays_finite(loss: Divergence) -> None:
    # The teacher has all of its mass on one id; the student has 1 - 1e-30 on another.
    teacher = TopK(torch.tensor([[0]]), torch.tensor([[0.0]]), torch.tensor([-math.inf]))
    logits = torch.tensor([[-69.0, 0.0, -70.0]], requires_grad=True)
    loss.between(FullPlaces(logits.log_softmax(-1)), teacher).sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert 0.99 <= float(loss.between(FullPlaces(logits.detach().log_softmax(-1)), teacher)) <= 31


def test_forward_kl_is_zero_when_both_agree_on_a_peaked_distribution_at_a_high_temperature() -> None:
    peaked_NV = torch.tensor([[30.0, 0.0, -1.0, -2.0]], dtype=torch.float64).log_softmax(-1)
    value_N = ForwardKL(temperature=4.0).between(FullPlaces(peaked_NV.float()), top_of(peaked_NV, 2, torch.float32))
    assert abs(float(value_N)) < 1e-3


def test_forward_kl_over_all_ids_at_a_high_temperature_pulls_by_the_difference_of_the_tempered_sides() -> None:
    # d/dz of T² KL(p_T || q_T) is T (q_T - p_T), with both tempered; at T=4 a floor under an empty tail would show.
    teacher_NV = torch.tensor([[12.0, 0.0, -1.0, -2.0]]).log_softmax(-1)
    logits_NV = torch.tensor([[12.0, 1.0, -3.0, -2.0]], requires_grad=True)
    ForwardKL(temperature=4.0).between(
        FullPlaces(logits_NV.log_softmax(-1)), top_of(teacher_NV, 4, torch.float32)
    ).sum().backward()
    expected_NV = 4 * ((logits_NV.detach() / 4).softmax(-1) - (teacher_NV / 4).softmax(-1))
    torch.testing.assert_close(logits_NV.grad, expected_NV, rtol=1e-4, atol=1e-5)


def test_forward_kl_over_all_ids_is_the_dense_divergence_in_float32_at_a_high_temperature() -> None:
    teacher_NV = torch.tensor([[12.0, 0.0, -1.0, -2.0]]).log_softmax(-1)
    student_NV = torch.tensor([[12.0, 1.0, -3.0, -2.0]]).log_softmax(-1)
    p_NV, q_NV = ((log_NV / 4).log_softmax(-1) for log_NV in (teacher_NV, student_NV))
    dense_N = 16 * (p_NV.exp() * (p_NV - q_NV)).sum(-1)
    found_N = ForwardKL(temperature=4.0).between(FullPlaces(student_NV), top_of(teacher_NV, 4, torch.float32))
    torch.testing.assert_close(found_N, dense_N, rtol=1e-3, atol=1e-3)


def test_mass_outside_the_kept_ids_is_not_free() -> None:
    # The teacher keeps one id with 0.9 and 0.1 outside; the student gives it 0.5.
    # 0.9 log(0.9/0.5) + 0.1 log(0.1/0.5) = 0.52901 - 0.16094 = 0.36806
    teacher = TopK(torch.tensor([[0]]), torch.tensor([[0.9]]).log(), torch.tensor([0.1]).log())
    student_NV = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert float(ForwardKL(temperature=1.0).between(FullPlaces(student_NV), teacher)) == pytest.approx(
        0.36806, abs=1e-4
    )


def test_temperature_flattens_both_sides_and_is_squared_in_front() -> None:
    # T = 2 takes square roots: p ~ (0.9, 0.3) / 1.2 = (0.75, 0.25), q ~ (1, 1) / 2.
    # 4 (0.75 log 1.5 + 0.25 log 0.5) = 4 (0.30410 - 0.17329) = 0.52325
    teacher = TopK(torch.tensor([[0, 1]]), torch.tensor([[0.81, 0.09]]).log(), torch.tensor([-math.inf]))
    student_NV = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    assert float(ForwardKL(temperature=2.0).between(FullPlaces(student_NV), teacher)) == pytest.approx(
        0.52325, abs=1e-4
    )


def test_forward_kl_does_not_read_rows_without_a_teacher() -> None:
    labels, teacher = given()
    broken = TopK(teacher.ids_NK, teacher.logprobs_NK.clone(), teacher.tail_N.clone())
    broken.logprobs_NK[2], broken.tail_N[2] = math.nan, math.nan  # known_N is False there
    loss, logits = ForwardKL(), model()
    torch.testing.assert_close(pull(loss, logits, labels, broken), pull(loss, logits, labels, teacher))
    assert loss.weights(labels)[2] == 0


def test_the_decision_is_the_cross_entropy_of_refusing() -> None:
    # q = 1/4: risk 1 costs -log 1/4 = 1.38629, risk 0 costs -log 3/4 = 0.28768, risk 1/2 their mean 0.83699.
    labels, teacher = given()
    quarter = passes(model(), labels, teacher)._replace(openings=openings(torch.full((3,), 0.25).log()))
    value, _ = Decision()(
        quarter, labels._replace(risk_B=torch.tensor([1.0, 0.0, 0.5]), prompts=share([1.0] * 3, torch.float32))
    )
    assert value.tolist() == pytest.approx([1.38629, 0.28768, 0.83699], abs=1e-4)


def test_refusing_a_harmless_prompt_can_be_made_to_cost_more() -> None:
    labels, teacher = given()
    quarter = passes(model(), labels, teacher)._replace(openings=openings(torch.full((2,), 0.25).log()))
    two = labels._replace(risk_B=torch.tensor([1.0, 0.0]), prompts=share([1.0] * 2, torch.float32))
    value, _ = Decision(harmless_cost=3.0)(quarter, two)
    assert value.tolist() == pytest.approx([1.38629, 3 * 0.28768], abs=1e-4)


def test_a_refusal_is_drawn_to_the_first_opening_and_every_opening_counts_against_an_answer() -> None:
    labels, teacher = given()
    logprobs_DV = torch.tensor([[0.1, 0.4, 0.5]] * 2).log()
    said = Openings(FullPlaces(logprobs_DV), torch.tensor([[0, 0], [1, 1]]), torch.tensor([0, 1]), (1, 1))
    two = labels._replace(risk_B=torch.tensor([1.0, 0.0]), prompts=share([1.0] * 2, torch.float32))
    value, _ = Decision()(passes(model(), labels, teacher)._replace(openings=said), two)
    assert value.tolist() == pytest.approx([-math.log(0.1), -math.log(0.5)])
    first, _ = Decision(openings=1)(passes(model(), labels, teacher)._replace(openings=said), two)
    assert first.tolist() == pytest.approx([-math.log(0.1), -math.log(0.9)])


def test_a_refusal_goes_on_with_the_words_it_is_taught_with_and_an_answer_does_not_count_them() -> None:
    # "No" (0.4) "thanks" (0.5): due is taught both, -log 0.2; harmless is kept from "No" alone, -log 0.6.
    labels, teacher = given()
    logprobs_DV = torch.tensor([[0.4, 0.6], [0.5, 0.5]]).log()
    said = Openings(FullPlaces(logprobs_DV), torch.tensor([[0, 1]] * 2), torch.tensor([0, 0]), (1,))
    two = labels._replace(risk_B=torch.tensor([1.0, 0.0]), prompts=share([1.0] * 2, torch.float32))
    value, _ = Decision()(passes(model(), labels, teacher)._replace(openings=said), two)
    assert value.tolist() == pytest.approx([-math.log(0.2), -math.log(0.6)])


def test_at_half_the_temperature_the_decision_is_nearer_to_what_greedy_decoding_does() -> None:
    # "No" opens with 0.4; "Yes" (0.3), "Well" (0.2) and "So" (0.1) answer. Squared and shared out: 16 of 30.
    logprobs_DV = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    said = Openings(FullPlaces(logprobs_DV), torch.zeros(1, 1, dtype=torch.long), torch.tensor([0]), (1,))
    assert said.refusing(1.0, openings=1).first_B.exp().tolist() == pytest.approx([0.4])
    assert said.refusing(0.5, openings=1).first_B.exp().tolist() == pytest.approx([16 / 30])
    assert said.refusing(0.5, openings=1).answers_B.exp().tolist() == pytest.approx([14 / 30])


def test_an_answer_is_what_leaves_every_opening_at_some_token() -> None:
    # "I can't" (0.5 * 0.6), "I won't" (0.5 * 0.2) and "No" (0.1) leave 0.5 of all.
    logprobs_DV = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.1, 0.1, 0.6, 0.2]]).log()
    said = Openings(FullPlaces(logprobs_DV), torch.tensor([[0, 1, 0, 1, 0]]), torch.tensor([0, 2, 0, 3, 1]), (2, 2, 1))
    for openings, answers in ((1, 0.7), (2, 0.6), (3, 0.5)):
        found = said.refusing(1.0, openings=openings)
        assert (found.first_B.exp().item(), found.answers_B.exp().item()) == pytest.approx((0.3, answers))
    # One that is the beginning of another counts once.
    inside = Openings(FullPlaces(logprobs_DV), torch.tensor([[0, 1, 0]]), torch.tensor([0, 2, 0]), (2, 1))
    assert inside.refusing(1.0, openings=2).answers_B.exp().item() == pytest.approx(0.5)


@pytest.mark.parametrize("margin", [5.0, 10.0, 20.0, 30.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_harmless_prompt_that_is_refused_for_certain_is_pulled_back_as_hard_as_any(
    margin: float, temperature: float
) -> None:
    # With logit m against V - 1 zeros, n of them: 1 - q = n / (n + e^(m/τ)), and the slope of -τ log(1 - q) is q.
    logits_NV = torch.zeros(1, 9).scatter(1, torch.tensor([[4]]), margin)
    block = Block(logits_NV)
    said = Openings(block, torch.tensor([[0]]), torch.tensor([4]), (1,))
    with torch.enable_grad():
        value = -temperature * said.refusing(temperature, openings=1).answers_B.sum()
    slope = block.slope(value, last=True)[0, 4]
    q = 1 / (1 + 8 * math.exp(-margin / temperature))
    exact = temperature * (math.log(8 + math.exp(margin / temperature)) - math.log(8))
    assert float(value.detach()) == pytest.approx(exact, rel=1e-5)
    assert float(slope) == pytest.approx(q, rel=1e-5)


def test_unlikelihood_of_a_token_with_probability_one_fifth_is_the_log_of_five_quarters() -> None:
    labels, teacher = given()
    fifth = passes(model(), labels, teacher)._replace(rejected=FullPlaces(torch.full((R, 5), 0.2).log()))
    at_hand = labels._replace(rejected_R=torch.arange(R))
    assert Unlikelihood()(fifth, at_hand).value.tolist() == pytest.approx([math.log(5 / 4)] * R)


@pytest.mark.parametrize("log_p", [-80.0, -20.0, -1.0, -0.6931, -0.693, -0.1, -1e-3, -1e-6])
def test_the_log_of_the_rest_is_exact_far_from_one_and_close_to_it(log_p: float) -> None:
    exact = math.log(-math.expm1(log_p)) if log_p > -1 else math.log1p(-math.exp(log_p))
    assert float(log1mexp(torch.tensor(log_p, dtype=torch.float64))) == pytest.approx(exact, rel=1e-12)
    # -1e-6 itself has seven digits in float32.
    assert float(log1mexp(torch.tensor(log_p))) == pytest.approx(exact, rel=1e-6, abs=1e-38)


def test_the_log_of_the_rest_of_all_is_finite_and_has_a_finite_gradient() -> None:
    for certain in (0.0, 1e-7, -math.inf):
        log_p = torch.tensor(certain, requires_grad=True)
        rest = log1mexp(log_p)
        rest.backward()
        assert log_p.grad is not None
        assert math.isfinite(rest.item()) and math.isfinite(log_p.grad.item())


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        ForwardKL(temperature=0.0)


def test_preference_before_training_is_log_two_and_falls_as_the_margin_grows() -> None:
    labels, teacher = given()
    same = torch.tensor([-10.0, -10.0, -10.0, -10.0])
    said = passes(model(), labels, teacher)
    before, _ = Preference()(said._replace(pairs=Pairs(same, same, same, same)), labels)
    assert before.tolist() == pytest.approx([math.log(2)] * L)
    # Log-ratios of 2 and -3 at beta 0.1: -log sigmoid(0.5) = 0.47408.
    after, _ = Preference()(said._replace(pairs=Pairs(same + 2, same - 3, same, same)), labels)
    assert after.tolist() == pytest.approx([0.47408] * L, abs=1e-4)


def test_drift_is_the_divergence_from_the_untrained_model_on_harmless_prompts_alone() -> None:
    # q = (3/4, 1/4) against q_0 = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2 = 0.13081.
    labels, teacher = given()
    two = FullPlaces(torch.tensor([[0.75, 0.25]] * N).log())
    said = passes(model(), labels, teacher)._replace(student=two, base=FullPlaces(torch.full((N, 2), 0.5).log()))
    value, weight = Drift()(said, labels)
    assert value.tolist() == pytest.approx([0.13081] * N, abs=1e-4)
    assert weight.tolist() == [1.0, 0.5, 1.0, 0.0, 0.0, 0.0]  # the second half is harmful


def test_the_same_answer_under_noise_costs_nothing() -> None:
    labels, teacher = given()
    said = passes(model(), labels, teacher)
    calm, _ = NoiseConsistency()(said._replace(noisy={Noise(): said.student}), labels)
    torch.testing.assert_close(calm, torch.zeros_like(calm))


def test_the_anti_teacher_is_silent_where_both_teachers_agree_and_sharpens_where_they_differ() -> None:
    # p = (0.8, 0.2), anti = (0.5, 0.5), kappa 1: p* ~ (1.28, 0.08) -> (16/17, 1/17); student at (0.5, 0.5):
    # 16/17 log(32/17) + 1/17 log(2/17) = 0.46948.
    labels, _ = given()
    teacher = TopK(torch.tensor([[0, 1]] * N), torch.tensor([[0.8, 0.2]] * N).log(), torch.full((N,), -math.inf))
    even = FullPlaces(torch.full((N, 2), 0.5).log())
    said = passes(model(), labels, teacher)._replace(student=even, base=even)
    every = labels._replace(known_N=torch.ones(N, dtype=torch.bool))
    assert AntiTeacher(kappa=1.0)(said, every).value.tolist() == pytest.approx([0.46948] * N, abs=1e-4)
    assert AntiTeacher(kappa=1.0, least=0.2)(said, every).value.tolist() == [0.0] * N


def test_a_contrast_between_right_angles_is_that_of_its_cosines() -> None:
    # Cosines 1 (alike), 0 and -1 at temperature 1/2: -log of e^2 / (e^2 + 1 + e^-2) = 0.14293.
    labels, teacher = given()
    states = {LAYER: torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])}
    one = Contrasts(states, torch.tensor([0]), torch.tensor([[1, 2, 3]]), torch.tensor([[True, True, True]]))
    said = passes(model(), labels, teacher)._replace(contrasts=one)
    assert PromptContrast(temperature=0.5)(said, labels).value.tolist() == pytest.approx([0.14293], abs=1e-4)
    without = one._replace(valid_CM=torch.tensor([[True, True, False]]))
    shorter, _ = PromptContrast(temperature=0.5)(said._replace(contrasts=without), labels)
    assert shorter.tolist() == pytest.approx([math.log(1 + math.exp(-2))], abs=1e-4)


@pytest.mark.parametrize(("distance", "apart"), [("cosine", [0.0, 1.0, 2.0]), ("mse", [1.0, 2.0, 4.0])])
def test_states_are_held_against_the_teachers_of_their_own_token(distance: str, apart: list[float]) -> None:
    # Twice the teacher's length, at a right angle, and the other way round; the teacher's states have lengths 1, 2, 3.
    told_NH = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    said_NH = torch.tensor([[2.0, 0.0], [2.0, 0.0], [-3.0, 0.0]])
    labels, teacher = given()
    said = passes(model(), labels, teacher)._replace(states={(LAYER, LAYER): Aligned(said_NH, told_NH)})
    loss = HiddenStates(distance=distance)  # type: ignore[arg-type]
    assert loss(said, labels.only(states=slice(0, 3))).value.tolist() == pytest.approx(apart)


def test_a_decision_window_leaves_its_floor_to_the_tokens_after_it() -> None:
    labels, _ = given()
    # Positions 0 1 2 3 0 1, weights 1 .5 1 0 1 .25: the third and fourth stand past a window of two.
    weights = CrossEntropy(decision_window=2, floor=0.2).weights(labels)
    assert weights.tolist() == pytest.approx([1.0, 0.5, 0.2, 0.0, 1.0, 0.25])

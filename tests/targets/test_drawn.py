"""Drawn ids stand for the whole distribution in the mean, and so does the gradient that they give."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.places import FullPlaces
from limbeck.models.local import top_k, uniform
from limbeck.protocols import TopK
from limbeck.targets.drawn import drawn
from limbeck.targets.ragged import rectangle

V = 60
SEEDS = 4000


def teacher() -> Tensor:
    """One distribution with a few likely ids and a long tail, float64 (1, V)."""
    return (-1.2 * torch.arange(1, V + 1, dtype=torch.float64).log())[None].log_softmax(-1)


def student() -> Tensor:
    return torch.randn(1, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def of_seeds(*, draws: int, exponent: float) -> TopK:
    """What is drawn of the teacher for many lessons at a position, one row each."""
    uniform_N = torch.tensor([uniform(f"lesson {seed}", 0) for seed in range(SEEDS)], dtype=torch.float64)
    found = drawn(teacher().expand(SEEDS, V), uniform_N, draws=draws, exponent=exponent)
    width = int(found.sizes_N.max())
    nothing_N = torch.full((SEEDS,), -torch.inf, dtype=torch.float64)
    return rectangle(found.sizes_N, found.ids_S, found.logweights_S.double(), nothing_N, width=width)


def gradients(target: TopK | Tensor, rows: int) -> Tensor:
    """The gradient of forward KL on the student's logits at each row."""
    logits_NV = student().expand(rows, V).clone().requires_grad_()
    ForwardKL().between(FullPlaces(logits_NV.log_softmax(-1)), target).sum().backward()
    assert logits_NV.grad is not None
    return logits_NV.grad


def off(found_NV: Tensor) -> Tensor:
    """How many standard errors the mean gradient of each logit is from the dense one, q - p."""
    dense_V = (student().softmax(-1) - teacher().exp())[0]
    # A logit whose gradient hardly scatters is held to the rounding of a weight in single precision.
    error_V = found_NV.std(0) / math.sqrt(len(found_NV)) + 1e-7
    return (found_NV.mean(0) - dense_V).abs() / error_V


@pytest.mark.parametrize(("draws", "exponent"), [(1, 1.0), (12, 1.0), (50, 1.0), (12, 0.6), (12, 1.3)])
def test_the_mean_gradient_is_the_dense_one(draws: int, exponent: float) -> None:
    found_NV = gradients(of_seeds(draws=draws, exponent=exponent), SEEDS)
    # Sixty logits: the farthest of them is about 2.5 standard errors off, past 4.5 once in 2,500 such tests.
    assert float(off(found_NV).max()) < 4.5


def test_the_gradient_of_the_likeliest_ids_is_another() -> None:
    # The tail as one outcome pulls its ids by what the student has of each, not by what the teacher has.
    found_NV = gradients(top_k(teacher(), 12), 1)
    dense_NV = student().softmax(-1) - teacher().exp()
    scatter_NV = gradients(of_seeds(draws=12, exponent=1.0), SEEDS).std(0) / math.sqrt(SEEDS)
    assert float(((found_NV - dense_NV).abs() / (scatter_NV + 1e-7)).max()) > 10


def test_a_renormalised_estimate_would_not_be_right_in_the_mean() -> None:
    # What scaling the weights to 1 each time does where the proposal is another: the bias that is not taken on.
    target = of_seeds(draws=4, exponent=0.6)
    scaled = target._replace(logprobs_NK=target.logprobs_NK.log_softmax(-1))
    assert float(off(gradients(scaled, SEEDS)).max()) > 10


def test_an_id_comes_as_often_as_its_share_of_the_draws_rounded_up_or_down() -> None:
    # p = 0.5, 0.26, 0.24 and 5 draws: 2.5, 1.3 and 1.2 of each.
    logprobs_NV = torch.tensor([[0.5, 0.26, 0.24]]).log()
    for noise in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53):
        found = drawn(logprobs_NV, torch.tensor([noise], dtype=torch.float64), draws=5, exponent=1.0)
        counts = dict(zip(found.ids_S.tolist(), (5 * found.logweights_S.exp()).round().tolist(), strict=True))
        assert counts[0] in (2, 3) and counts[1] in (1, 2) and counts[2] in (1, 2) and sum(counts.values()) == 5


def test_an_id_without_mass_is_never_drawn() -> None:
    logprobs_NV = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).log().expand(7, -1)
    uniform_N = torch.tensor([0.0, 2**-53, 0.25, 0.5, 0.75, 0.999, 1 - 2**-53], dtype=torch.float64)
    found = drawn(logprobs_NV, uniform_N, draws=4, exponent=0.7)
    assert set(found.ids_S.tolist()) == {1, 3} and bool(found.logweights_S.isfinite().all())


def test_the_weights_of_a_plain_draw_sum_to_1() -> None:
    target = of_seeds(draws=50, exponent=1.0)
    torch.testing.assert_close(target.logprobs_NK.exp().sum(-1), torch.ones(SEEDS, dtype=torch.float64))

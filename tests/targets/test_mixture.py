"""A mixture is the weighted sum of probabilities, and disagreement the Jensen-Shannon divergence."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.models.local import top_k
from limbeck.targets.mixture import begun_by, disagreement, mixed, stacked


def drawn(teachers: int, tokens: int = 5, vocabulary: int = 40) -> torch.Tensor:
    noise = torch.Generator().manual_seed(teachers)
    return (3 * torch.randn(teachers, tokens, vocabulary, generator=noise)).log_softmax(-1)


def dense(logprobs_MNV: torch.Tensor, *weights: float) -> torch.Tensor:
    """Σ w p in float64."""
    return sum(weight * one_NV.double().exp() for weight, one_NV in zip(weights, logprobs_MNV, strict=True))  # type: ignore[return-value]


def test_a_mixture_is_the_weighted_sum_of_probabilities() -> None:
    logprobs_MNV = drawn(3)
    found_NV = mixed(logprobs_MNV, torch.tensor([0.5, 0.3, 0.2]))
    torch.testing.assert_close(found_NV.double().exp(), dense(logprobs_MNV, 0.5, 0.3, 0.2), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("top", [1, 7, 40])
def test_what_is_kept_of_a_mixture_and_its_tail_are_those_of_the_dense_one(top: int) -> None:
    logprobs_MNV = drawn(2)
    kept = top_k(mixed(logprobs_MNV, torch.tensor([0.75, 0.25])), top)
    expected_NV = dense(logprobs_MNV, 0.75, 0.25)
    torch.testing.assert_close(
        kept.logprobs_NK.double().exp(), expected_NV.gather(1, kept.ids_NK), rtol=1e-5, atol=1e-7
    )
    # The likeliest ids of the sum, though neither teacher need have them among its own likeliest.
    assert kept.logprobs_NK.exp().sum(-1).double().allclose(expected_NV.topk(top).values.sum(-1), rtol=1e-5)
    inside_N = expected_NV.gather(1, kept.ids_NK).sum(-1)
    torch.testing.assert_close(kept.tail_N.double().exp(), 1 - inside_N, rtol=1e-4, atol=1e-6)


def test_a_mixture_of_identical_teachers_is_that_teacher() -> None:
    one_NV = drawn(1)[0]
    torch.testing.assert_close(mixed(torch.stack([one_NV, one_NV]), torch.tensor([0.9, 0.1])), one_NV)


def test_a_teacher_with_all_the_weight_is_the_mixture() -> None:
    logprobs_MNV = drawn(2)
    assert mixed(logprobs_MNV, torch.tensor([1.0, 0.0])).equal(logprobs_MNV[0])


def test_an_id_without_mass_anywhere_has_none_in_the_mixture() -> None:
    logprobs_MNV = torch.tensor([[[0.5, 0.5, 0.0]], [[1.0, 0.0, 0.0]]]).log()
    torch.testing.assert_close(mixed(logprobs_MNV, torch.tensor([0.5, 0.5])).exp(), torch.tensor([[0.75, 0.25, 0.0]]))


def test_a_narrower_head_gives_no_mass_to_the_ids_that_it_lacks() -> None:
    wide, narrow = torch.tensor([[0.2, 0.3, 0.5]]).log(), torch.tensor([[0.4, 0.6]]).log()
    found = mixed(stacked([wide, narrow]), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(found.exp(), torch.tensor([[0.3, 0.45, 0.25]]))


def test_identical_teachers_agree_and_disjoint_ones_are_as_far_apart_as_can_be() -> None:
    one_NV = drawn(1)[0].exp()
    for teachers in (2, 3):
        assert float(disagreement(one_NV.expand(teachers, -1, -1)).max()) < 1e-6
        apart_MNV = torch.eye(teachers)[:, None, :]
        assert disagreement(apart_MNV).tolist() == pytest.approx([1.0])


def test_the_disagreement_of_two_is_their_divergence_in_bits() -> None:
    # p = (1, 0), q = (1/2, 1/2): H(3/4, 1/4) - (0 + 1) / 2 = 0.8113 - 0.5 bits.
    assert float(disagreement(torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]]))) == pytest.approx(0.3113, abs=1e-4)


def test_a_disagreement_lies_between_0_and_1_whatever_the_teachers() -> None:
    for teachers in (2, 3, 5):
        found_N = disagreement((4 * drawn(teachers)).log_softmax(-1).exp())
        assert found_N.isfinite().all() and 0 < float(found_N.min()) <= float(found_N.max()) <= 1


@pytest.mark.parametrize("window", [0, 2, 5, 9])
def test_a_veto_touches_the_window_and_nothing_else(window: int) -> None:
    veto_NV, mixed_NV = drawn(2)
    found_NV = begun_by(veto_NV, mixed_NV, window=window)
    assert found_NV[:window].equal(veto_NV[:window]) and found_NV[window:].equal(mixed_NV[window:])
    assert len(found_NV) == 5 and not math.isnan(float(found_NV.sum()))

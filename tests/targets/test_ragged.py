"""Places that are left over are filled with ids that change nothing."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.losses import LOSSES
from limbeck.losses.divergence import Divergence
from limbeck.losses.places import FullPlaces
from limbeck.protocols import TopK
from limbeck.targets.ragged import rectangle, widened

DIVERGENCES = [kind() for kind in LOSSES.values() if issubclass(kind, Divergence) and "base" not in kind.needs]


def test_the_ids_of_each_token_stand_first_and_others_fill_the_rest_each_once() -> None:
    sizes_N, ids_S = torch.tensor([2, 0, 3]), torch.tensor([9, 0, 1, 2, 7])
    found = rectangle(sizes_N, ids_S, torch.arange(5.0), torch.zeros(3), width=4)
    assert found.ids_NK.tolist() == [[9, 0, 1, 2], [0, 1, 2, 3], [1, 2, 7, 0]]
    assert found.logprobs_NK.isfinite().tolist() == [[True, True, False, False], [False] * 4, [True] * 3 + [False]]
    assert found.logprobs_NK[2].tolist() == [2.0, 3.0, 4.0, -math.inf]


@pytest.mark.parametrize("loss", DIVERGENCES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_filled_places_change_no_value_and_no_gradient(loss: Divergence, temperature: float) -> None:
    noise = torch.Generator().manual_seed(1)
    teacher_NV = torch.randn(5, 40, generator=noise, dtype=torch.float64).log_softmax(-1)
    logprobs_NK, ids_NK = teacher_NV.topk(3)
    narrow = TopK(ids_NK, logprobs_NK, torch.log1p(-logprobs_NK.exp().sum(-1)))
    logits_NV = torch.randn(5, 40, generator=noise, dtype=torch.float64).requires_grad_()
    warm = loss.model_copy(update={"temperature": temperature})
    plain, filled = (
        warm.between(FullPlaces(logits_NV.log_softmax(-1)), target).sum() for target in (narrow, widened(narrow, 9))
    )
    torch.testing.assert_close(filled, plain)
    (expected,), (found,) = (torch.autograd.grad(one, logits_NV, retain_graph=True) for one in (plain, filled))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", DIVERGENCES, ids=lambda loss: loss.kind)
def test_a_token_of_which_nothing_is_known_teaches_nothing(loss: Divergence) -> None:
    nothing_S = torch.empty(0, dtype=torch.float64)
    unknown = rectangle(torch.tensor([0]), nothing_S, nothing_S, torch.zeros(1, dtype=torch.float64), width=2)
    logits_NV = torch.randn(1, 9, dtype=torch.float64).requires_grad_()
    value_N = loss.between(FullPlaces(logits_NV.log_softmax(-1)), unknown)
    (gradient,) = torch.autograd.grad(value_N.sum(), logits_NV)
    assert abs(float(value_N.detach())) < 1e-9 and float(gradient.abs().max()) < 1e-9

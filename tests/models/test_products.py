"""Products by oneDNN: as in double precision, with their gradients, and only where they are quicker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from limbeck.models import products
from limbeck.models.products import QuickLinear, projected, quicken_products
from limbeck.models.references import load_weights, resolve


@pytest.fixture(params=[True, False], ids=["oneDNN", "PyTorch"], autouse=True)
def is_quicker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Either processor."""
    monkeypatch.setattr(products, "_is_onednn_quicker", lambda: request.param)
    yield request.param


@pytest.mark.parametrize("shape", [(0,), (1,), (130,), (3, 7), (24, 1)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_and_its_gradients_are_those_of_double_precision(shape: tuple[int, ...], has_bias: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    rows, weight = torch.randn(*shape, 24, generator=draw), torch.randn(600, 24, generator=draw)
    slope = torch.randn(*shape, 600, generator=draw)
    given = [rows, weight, torch.randn(600, generator=draw)][: 2 + has_bias]

    def with_gradients(multiplied: object, dtype: torch.dtype) -> list[Tensor]:
        inputs = [one.to(dtype).requires_grad_() for one in given]
        product = multiplied(*inputs)  # type: ignore[operator]
        return [product.detach(), *torch.autograd.grad(product, inputs, slope.to(dtype))]

    for found, sought in zip(
        with_gradients(projected, torch.float32), with_gradients(linear, torch.float64), strict=True
    ):
        torch.testing.assert_close(found.double(), sought, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("learnt", [(True, False, False), (False, True, False), (False, False, True)])
def test_each_of_rows_weight_and_bias_may_be_learnt_alone(learnt: tuple[bool, bool, bool]) -> None:
    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randn(*size, generator=draw).requires_grad_() for size in ((5, 8), (6, 8), (6,))]
    sought = torch.autograd.grad(linear(*inputs).square().sum(), inputs)
    frozen = [one.detach().requires_grad_(learns) for one, learns in zip(inputs, learnt, strict=True)]
    projected(*frozen).square().sum().backward()
    for one, slope, learns in zip(frozen, sought, learnt, strict=True):
        if learns:
            torch.testing.assert_close(one.grad, slope, rtol=1e-4, atol=1e-4)


def test_a_product_back_through_a_transposed_weight() -> None:
    draw = torch.Generator().manual_seed(1)
    slope_NB, weight_BA = torch.randn(130, 600, generator=draw), torch.randn(600, 24, generator=draw)
    sought = slope_NB.double() @ weight_BA.double()
    torch.testing.assert_close(projected(slope_NB, weight_BA.t()).double(), sought, rtol=1e-5, atol=1e-4)


def test_a_model_s_plain_layers_take_it_and_no_others(tiny_model: Path, is_quicker: bool) -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(nn.Linear(4, 4), Doubled(4, 4), nn.LayerNorm(4))
    quicken_products(model)
    assert [type(part) for part in model] == [QuickLinear if is_quicker else nn.Linear, Doubled, nn.LayerNorm]
    loaded = load_weights(resolve(str(tiny_model)), "float32")
    assert any(isinstance(part, QuickLinear) for part in loaded.modules()) == is_quicker


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_pytorch(dtype: torch.dtype) -> None:
    layer = nn.Linear(8, 6).to(dtype)
    rows = torch.randn(5, 8, dtype=dtype)
    sought = layer(rows)
    quicken_products(layer)
    assert torch.equal(layer(rows), sought)


def test_autocast_has_its_way() -> None:
    layer = nn.Linear(8, 6)
    quicken_products(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(5, 8)).dtype == torch.bfloat16

"""Float32 products by oneDNN on AMD's processors with AVX-512.

PyTorch asks oneDNN for bfloat16 and float16 alone; in float32 it asks MKL, which leaves AVX-512 unused there and takes
more than twice as long (docs/notebook.md). Axes: N rows, A and B widths.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from limbeck.models.precision import processor

# Of fewer rows MKL is the quicker (docs/notebook.md, *MKL and oneDNN*).
FEWEST_ROWS = 4


def quicken_products(module: nn.Module) -> None:
    """Lets the plain linear layers within a module multiply by oneDNN, wherever that is the quicker of the two."""
    if _is_onednn_quicker():
        for part in module.modules():
            # Any other kind of layer does more than multiply with its weight.
            if type(part) is nn.Linear:
                part.__class__ = QuickLinear


class QuickLinear(nn.Linear):
    """A linear layer, by whatever is quicker here."""

    def forward(self, input: Tensor) -> Tensor:
        return projected(input, self.weight, self.bias)


def projected(rows_NA: Tensor, weight_BA: Tensor, bias_B: Tensor | None = None) -> Tensor:
    """rows @ weight.T + bias, (N, B), whatever axes N stands for; with its gradients."""
    if not _suits_onednn(rows_NA, weight_BA):
        return linear(rows_NA, weight_BA, bias_B)
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (rows_NA, weight_BA, bias_B)):
        product: Tensor = _Product.apply(rows_NA, weight_BA, bias_B)
        return product
    return _multiplied(rows_NA, weight_BA, bias_B)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_NA: Tensor, weight_BA: Tensor, bias_B: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows_NA if weight_BA.requires_grad else None, weight_BA)
        return _multiplied(rows_NA, weight_BA, bias_B)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope_NB: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows_NA, weight_BA = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        flat_NB = slope_NB.flatten(0, -2)
        return (
            _multiplied(slope_NB, weight_BA.t()) if for_rows else None,
            _multiplied(flat_NB.t(), rows_NA.flatten(0, -2).t()) if for_weight else None,
            flat_NB.sum(0) if for_bias else None,
        )


def _multiplied(rows_NA: Tensor, weight_BA: Tensor, bias_B: Tensor | None = None) -> Tensor:
    product_NB: Tensor = torch.ops.mkldnn._linear_pointwise(rows_NA, weight_BA, bias_B, "none", [], "")
    return product_NB


def _suits_onednn(rows_NA: Tensor, weight_BA: Tensor) -> bool:
    return (
        rows_NA.device.type == weight_BA.device.type == "cpu"
        and rows_NA.dtype == weight_BA.dtype == torch.float32
        and rows_NA.dim() > 1
        and rows_NA.numel() >= FEWEST_ROWS * rows_NA.shape[-1] > 0
        and not torch.is_autocast_enabled("cpu")
        and _is_onednn_quicker()
    )


@cache
def _is_onednn_quicker() -> bool:
    here = processor()
    return (
        "AMD" in here.get("cpu_name", "")
        and here.get("avx512_f", False)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )

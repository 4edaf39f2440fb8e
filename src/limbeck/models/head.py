"""From hidden states to logits: the output head as the model's own forward applies it. Axes: N rows, V vocabulary,
H hidden."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from limbeck.models.precision import processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Head(NamedTuple):
    """The layer that projects, what its logits are multiplied with, and the soft cap that they stay below."""

    layer: Any
    scale: float
    cap: float | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Head:
        """The head of a model."""
        config = model.config.get_text_config()
        # Granite divides, Cohere multiplies; Gemma 2 squashes.
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(model.get_output_embeddings(), scale, getattr(config, "final_logit_softcapping", None))

    @property
    def weight_VH(self) -> Tensor:
        return self.layer.weight

    @property
    def bias_V(self) -> Tensor | None:
        return self.layer.bias

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Logits (N, V), in float32 at least."""
        hidden_NH = hidden_NH.to(self.weight_VH.dtype)
        # Any other kind of layer does more than multiply with its weight.
        is_plain = type(self.layer) is torch.nn.Linear
        logits_NV = projected(hidden_NH, self.weight_VH, self.bias_V) if is_plain else self.layer(hidden_NH)
        if logits_NV.dtype != torch.float64:
            logits_NV = logits_NV.float()
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        return logits_NV if self.cap is None else torch.tanh(logits_NV / self.cap) * self.cap

    def before_scaling(self, slope_NV: Tensor, logits_NV: Tensor) -> Tensor:
        """From the gradient on these logits, in place, to that on what the layer itself gives."""
        if self.cap is not None:
            slope_NV.mul_(1 - (logits_NV / self.cap).square())
        if self.scale != 1.0:
            slope_NV.mul_(self.scale)
        return slope_NV

    def onto_hidden(self, slope_NV: Tensor) -> Tensor:
        """From the gradient on what the layer gives to that on the hidden states (N, H)."""
        return projected(slope_NV.to(self.weight_VH.dtype), self.weight_VH.t())


def projected(rows_NA: Tensor, weight_BA: Tensor, bias_B: Tensor | None = None) -> Tensor:
    """rows @ weight.T + bias, (N, B).

    In float32 on a processor that is not Intel's by oneDNN, where nobody wants a gradient of it: PyTorch takes that for
    other types alone, and there MKL needs up to half as much time again for few rows.
    """
    if _has_onednn(rows_NA, weight_BA):
        return torch.ops.mkldnn._linear_pointwise(rows_NA, weight_BA, bias_B, "none", [], "")
    return linear(rows_NA, weight_BA, bias_B)


def _has_onednn(rows_NA: Tensor, weight_BA: Tensor) -> bool:
    traced = torch.is_grad_enabled() and (rows_NA.requires_grad or weight_BA.requires_grad)
    return (
        not traced
        and rows_NA.device.type == weight_BA.device.type == "cpu"
        and rows_NA.dtype == weight_BA.dtype == torch.float32
        and rows_NA.numel() > 0
        and not _is_intel()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@cache
def _is_intel() -> bool:
    return "Intel" in processor().get("cpu_name", "")


def logits_of(model: PreTrainedModel, hidden_NH: Tensor) -> Tensor:
    """Logits (N, V) in float32 at least, with the model's logit scale and soft cap."""
    return Head.of(model).logits(hidden_NH)

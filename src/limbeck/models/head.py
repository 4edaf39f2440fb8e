"""From hidden states to logits: the output head as the model's own forward applies it. Axes: N rows, V vocabulary,
H hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from limbeck.models.products import projected

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
        logits_NV = self.layer(hidden_NH)
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


def logits_of(model: PreTrainedModel, hidden_NH: Tensor) -> Tensor:
    """Logits (N, V) in float32 at least, with the model's logit scale and soft cap."""
    return Head.of(model).logits(hidden_NH)

"""From hidden states to log-probabilities: the output head as the model's own forward applies it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def logits_of(model: PreTrainedModel, hidden_NH: Tensor) -> Tensor:
    """Logits (N, V) in float32, with the model's logit scale and soft cap."""
    head = model.get_output_embeddings()
    logits_NV = head(hidden_NH).float()
    config = model.config.get_text_config()
    # Granite divides, Cohere multiplies; Gemma 2 squashes.
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits_NV = logits_NV / divisor
    if (factor := getattr(config, "logit_scale", None)) is not None:
        logits_NV = logits_NV * factor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits_NV = torch.tanh(logits_NV / cap) * cap
    return logits_NV

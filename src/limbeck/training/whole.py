"""A model of which everything is trained, read like one with an adapter on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Whole(nn.Module):
    """The model, in float32 whatever it computes in, and beside it, where a loss compares with that, the frozen model
    before any training."""

    def __init__(self, backbone: PreTrainedModel, *, computes_in: torch.dtype) -> None:
        super().__init__()
        self.backbone = backbone
        self.computes_in = computes_in
        # In a tuple: what a module holds itself is trained, moved and saved with it.
        self.untrained: tuple[PreTrainedModel, ...] = ()

    def get_base_model(self) -> PreTrainedModel:
        """The model itself, under the name that it has below an adapter."""
        return self.backbone

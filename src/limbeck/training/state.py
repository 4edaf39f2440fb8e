"""What a killed training goes on from: one file, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.files import replacing


class Moving(NamedTuple):
    """All that a step changes in the student and in how it learns."""

    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler

    def step(self, *, heard: bool) -> None:
        """Learns from the gradients, and forgets them. The learning rate moves on where they were `heard`: with
        float16 the scaler leaves out a step in which they overflowed."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if heard:
            self.schedule.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        return {
            "parameters": [parameter.detach().cpu() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state."""
        put(state["parameters"], into=self.parameters)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])


def put(values: Sequence[torch.Tensor], *, into: Sequence[nn.Parameter]) -> None:
    """Gives parameters the values that they had."""
    with torch.no_grad():
        for parameter, value in zip(into, values, strict=True):
            parameter.copy_(value)


def save_state(file: Path, state: dict[str, Any]) -> None:
    """The whole state or nothing."""
    with replacing(file) as stream:
        torch.save(state, stream)


def load_state(file: Path) -> dict[str, Any] | None:
    """The last state, None before the first."""
    if not file.is_file():
        return None
    return torch.load(file, map_location="cpu", weights_only=True)

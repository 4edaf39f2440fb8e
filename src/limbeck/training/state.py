"""What a killed training goes on from: one file, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from limbeck.files import replacing


def save_state(file: Path, state: dict[str, Any]) -> None:
    """The whole state or nothing."""
    with replacing(file) as stream:
        torch.save(state, stream)


def load_state(file: Path) -> dict[str, Any] | None:
    """The last state, None before the first."""
    if not file.is_file():
        return None
    return torch.load(file, map_location="cpu", weights_only=True)

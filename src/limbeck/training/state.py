"""What a killed training goes on from: one file, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_state(file: Path, state: dict[str, Any]) -> None:
    """Written beside, synced, renamed."""
    beside = file.with_name(f".{file.name}.new")
    with beside.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, file)


def load_state(file: Path) -> dict[str, Any] | None:
    """The last state, None before the first."""
    if not file.is_file():
        return None
    return torch.load(file, map_location="cpu", weights_only=True)

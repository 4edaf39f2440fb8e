"""Memory that grows: what is appended along one axis is written, where all would be copied for it.

Axes: B rows, A heads, T tokens, D dimensions of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Room that a full cache grows by, in tokens: a copy of the cache for each so many.
ROOM = 32


class Room:
    """Memory for states of B rows, longer along T than what is held; zero behind that."""

    def __init__(self) -> None:
        self.whole_BATD = torch.empty(0, 0, 0, 0)
        self.shown_BATD = self.whole_BATD

    def append(self, held_BATD: Tensor, new_BATD: Tensor) -> Tensor:
        """Both one after the other along T. What was selected or repeated since moves to new memory."""
        if held_BATD.numel() == 0:
            return new_BATD
        length, end = held_BATD.shape[2], held_BATD.shape[2] + new_BATD.shape[2]
        if held_BATD is not self.shown_BATD or self.whole_BATD.shape[2] < end:
            size = (*held_BATD.shape[:2], end + ROOM, held_BATD.shape[3])
            self.whole_BATD = held_BATD.new_zeros(size)
            self.whole_BATD[:, :, :length] = held_BATD
        self.whole_BATD[:, :, length:end] = new_BATD
        self.shown_BATD = self.whole_BATD[:, :, :end]
        self.shown_BATD.with_room = self.whole_BATD
        return self.shown_BATD


def with_room(states_BATD: Tensor) -> Tensor:
    """The states with the room behind them, which is zero; as they are where they are not what was last appended to
    (a selection, a cast)."""
    whole_BATD: Tensor = getattr(states_BATD, "with_room", states_BATD)
    return whole_BATD

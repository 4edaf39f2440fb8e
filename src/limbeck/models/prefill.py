"""Prompts read into a key-value cache, what they share only once.

Axes: B prompts, U distinct ones, T tokens, H hidden, A attention heads, D dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from torch import nn

# Room that a full cache grows by, in tokens: a copy of the cache for each so many.
ROOM = 32


class GrowingLayer(DynamicLayer):
    """Keys and values in memory with room behind them: a new token is written, where all would be copied for it."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.rooms = [Room(), Room()]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self.rooms[0].append(self.keys, key_states)
        self.values = self.rooms[1].append(self.values, value_states)
        return self.keys, self.values


class Room:
    """Memory for states of B prompts, A heads, T tokens and D dimensions, longer along T than what is held."""

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
            self.whole_BATD = held_BATD.new_empty(size)
            self.whole_BATD[:, :, :length] = held_BATD
        self.whole_BATD[:, :, length:end] = new_BATD
        self.shown_BATD = self.whole_BATD[:, :, :end]
        return self.shown_BATD


class Prefilled(NamedTuple):
    """The cache of B prompts, which of its places are tokens (1) and which padding (0), and their last hidden state."""

    cache: DynamicCache
    mask_BT: Tensor
    hidden_BH: Tensor


def prefill(decoder: nn.Module, prompts: Sequence[list[int]], *, pad: int) -> Prefilled:
    """The prompts, read. A beginning that all share (the system prompt) and a prompt that comes again (samples of one
    question) are computed once; the shorter prompts are padded between that beginning and their rest. With a sliding
    window nothing is shared."""
    cache = DynamicCache(config=decoder.config)
    # Others count a window in places of the cache, and padding inside it would push tokens out.
    is_plain = all(type(layer) is DynamicLayer for layer in cache.layers)
    if is_plain:
        cache.layers = [GrowingLayer() for _ in cache.layers]
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    # At least one token of each is left, for its hidden state predicts the reply.
    shared = min(common(min(distinct), max(distinct)), min(map(len, distinct)) - 1)
    if is_plain and shared and len(distinct) > 1:
        _read(decoder, cache, torch.tensor([distinct[0][:shared]]), torch.ones((1, shared), dtype=torch.long))
        cache.batch_repeat_interleave(len(distinct))
    else:
        shared = 0
    width = max(map(len, distinct)) - shared
    rests = [list(prompt[shared:]) for prompt in distinct]
    ids_UT = torch.tensor([[pad] * (width - len(rest)) + rest for rest in rests])
    mask_UT = torch.tensor([[1] * shared + [0] * (width - len(rest)) + [1] * len(rest) for rest in rests])
    hidden_UH = _read(decoder, cache, ids_UT, mask_UT)
    of_prompt = {prompt: at for at, prompt in enumerate(distinct)}
    at_B = torch.tensor([of_prompt[tuple(prompt)] for prompt in prompts], device=hidden_UH.device)
    if len(distinct) < len(prompts):
        cache.batch_select_indices(at_B)
    return Prefilled(cache, mask_UT.to(at_B.device)[at_B], hidden_UH[at_B])


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with; of the first and the last in order, so many as all between them."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _read(decoder: Any, cache: DynamicCache, ids_UT: Tensor, mask_UT: Tensor) -> Tensor:
    """The hidden state (U, H) of the last token; positions count tokens, not padding."""
    device = next(decoder.parameters()).device
    positions_UT = (mask_UT.cumsum(1) - 1).clamp(min=0)[:, -ids_UT.shape[1] :]
    return decoder(
        input_ids=ids_UT.to(device),
        attention_mask=mask_UT.to(device),
        position_ids=positions_UT.to(device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]

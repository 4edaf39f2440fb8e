"""Prompts read into a key-value cache, what they share only once.

Axes: B prompts, U distinct ones, T tokens, H hidden, A attention heads, D dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from limbeck.models.room import Room

if TYPE_CHECKING:
    from torch import nn

# Tokens of padding that are as dear as one more pass over the decoder.
PASS = 128


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


class Prefilled(NamedTuple):
    """The cache of B prompts, which of its places are tokens (1) and which padding (0), and their last hidden state."""

    cache: DynamicCache
    mask_BT: Tensor
    hidden_BH: Tensor


def prefill(decoder: nn.Module, prompts: Sequence[list[int]], *, pad: int) -> Prefilled:
    """The prompts, read. A beginning that all share (the system prompt) and a prompt that comes again (samples of one
    question) are computed once; prompts about as long are read together, and the shorter ones padded between that
    beginning and their rest. In a cache of another kind (with a sliding window, say) nothing is shared, and all are
    read together."""
    cache = _empty_cache(decoder)
    # Others count a window in places of the cache, and padding inside it would push tokens out.
    is_plain = all(type(layer) is GrowingLayer for layer in cache.layers)
    asked = list(map(tuple, prompts))
    distinct = list(dict.fromkeys(asked)) if selects_rows(cache) else asked
    if is_plain:
        distinct.sort(key=len, reverse=True)
    # At least one token of each is left, for its hidden state predicts the reply.
    shared = min(common(min(distinct), max(distinct)), len(distinct[-1]) - 1) if is_plain and len(distinct) > 1 else 0
    if shared:
        _read(decoder, cache, [distinct[0][:shared]], pad=pad, shared=0)
    rests = [prompt[shared:] for prompt in distinct]
    parts: list[Prefilled] = []
    for rows in _of_about_a_length(rests) if is_plain else [rests]:
        part = _repeated(decoder, cache, len(rows)) if shared else _empty_cache(decoder)
        parts.append(_read(decoder, part, rows, pad=pad, shared=shared))
    cache, mask_UT, hidden_UH = _joined(parts, shared=shared) if len(parts) > 1 else parts[0]
    if distinct == asked:
        return Prefilled(cache, mask_UT, hidden_UH)
    of_prompt = {prompt: at for at, prompt in enumerate(distinct)}
    at_B = torch.tensor([of_prompt[prompt] for prompt in asked], device=hidden_UH.device)
    cache.batch_select_indices(at_B)
    return Prefilled(cache, mask_UT[at_B], hidden_UH[at_B])


def selects_rows(cache: DynamicCache) -> bool:
    """Whether some rows of it can be kept without the others: not so of what linear attention has read."""
    return all(isinstance(layer, DynamicLayer) for layer in cache.layers)


def _empty_cache(decoder: Any) -> DynamicCache:
    """The decoder's cache, whose layers grow where they are plain."""
    cache = DynamicCache(config=decoder.config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [GrowingLayer() for _ in cache.layers]
    return cache


def _repeated(decoder: Any, cache: DynamicCache, rows: int) -> DynamicCache:
    """A cache of so many rows, each with what the one row of the other holds."""
    found = _empty_cache(decoder)
    for layer, held in zip(found.layers, cache.layers, strict=True):
        layer.update(held.keys.expand(rows, -1, -1, -1), held.values.expand(rows, -1, -1, -1))
    return found


def _of_about_a_length(rests: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """The rests, the longest first, cut where padding would cost more than another pass over the decoder."""
    part: list[tuple[int, ...]] = []
    padding = 0
    for rest in rests:
        padding += len(part[0]) - len(rest) if part else 0
        if padding > PASS:
            yield part
            part, padding = [], 0
        part.append(rest)
    yield part


def _joined(parts: Sequence[Prefilled], *, shared: int) -> Prefilled:
    """All rows in one cache, each padded between the beginning that all share and its own rest."""
    width = max(part.mask_BT.shape[1] for part in parts)
    mask_UT = torch.cat([_widened(part.mask_BT, 1, width, shared=shared) for part in parts])
    cache = parts[0].cache
    for at in range(len(cache.layers)):
        every = [part.cache.layers[at] for part in parts]
        joined = GrowingLayer()
        joined.update(
            torch.cat([_widened(one.keys, 2, width, shared=shared) for one in every]),
            torch.cat([_widened(one.values, 2, width, shared=shared) for one in every]),
        )
        # One layer at a time is in memory twice.
        for part in parts:
            part.cache.layers[at] = joined
    return Prefilled(cache, mask_UT, torch.cat([part.hidden_BH for part in parts]))


def _widened(states: Tensor, axis: int, width: int, *, shared: int) -> Tensor:
    """With zeros between the shared beginning and the rest, up to the width along the axis."""
    if (missing := width - states.shape[axis]) == 0:
        return states
    beginning, rest = states.split([shared, states.shape[axis] - shared], dim=axis)
    between = list(states.shape)
    between[axis] = missing
    return torch.cat([beginning, states.new_zeros(between), rest], dim=axis)


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with; of the first and the last in order, so many as all between them."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _read(decoder: Any, cache: DynamicCache, rests: Sequence[tuple[int, ...]], *, pad: int, shared: int) -> Prefilled:
    """The rests, padded on the left to the longest, behind `shared` tokens that the cache holds for each of them;
    positions count tokens, not padding."""
    device = next(decoder.parameters()).device
    width = max(map(len, rests))
    ids_UT = torch.tensor([[pad] * (width - len(rest)) + list(rest) for rest in rests], device=device)
    mask_UT = torch.tensor(
        [[1] * shared + [0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device
    )
    hidden_UTH = decoder(
        input_ids=ids_UT,
        attention_mask=mask_UT,
        position_ids=(mask_UT.cumsum(1) - 1).clamp(min=0)[:, -width:],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return Prefilled(cache, mask_UT, hidden_UTH[:, -1])

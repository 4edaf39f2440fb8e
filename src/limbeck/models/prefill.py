"""Prompts read into a key-value cache, what they share only once.

Axes: B prompts, U distinct ones, T tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn
    from transformers import DynamicCache


class Prefilled(NamedTuple):
    """The cache of B prompts, which of its places are tokens (1) and which padding (0), and their last hidden state."""

    cache: DynamicCache
    mask_BT: Tensor
    hidden_BH: Tensor


def prefill(decoder: nn.Module, prompts: Sequence[list[int]], *, pad: int) -> Prefilled:
    """The prompts, read. A beginning that all share (the system prompt) and a prompt that comes again (samples of one
    question) are computed once; the shorter prompts are padded between that beginning and their rest."""
    from transformers import DynamicCache

    cache = DynamicCache(config=decoder.config)
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    # At least one token of each is left, for its hidden state predicts the reply.
    shared = min(_common(min(distinct), max(distinct)), min(map(len, distinct)) - 1)
    if shared and len(distinct) > 1:
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


def _common(first: Sequence[int], second: Sequence[int]) -> int:
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

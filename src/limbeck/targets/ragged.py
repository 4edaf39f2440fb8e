"""Distributions with another number of known ids at each token, side by side.

Axes: N reply tokens, S known ids of all of them one token after the other, K places for the ids of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.protocols import TopK

if TYPE_CHECKING:
    from torch import Tensor


def rectangle(sizes_N: Tensor, ids_S: Tensor, logprobs_S: Tensor, tail_N: Tensor, *, width: int) -> TopK:
    """The known ids of each token in `width` places, which are as many as any token has ids or more.

    Places that are left are filled with other ids, each once, of the log-prob -inf.
    """
    import torch

    place_NK = torch.arange(width) - sizes_N[:, None]
    known_NK = place_NK < 0
    ids_NK = torch.zeros(known_NK.shape, dtype=torch.long)
    ids_NK[known_NK] = ids_S.long()
    logprobs_NK = torch.full(known_NK.shape, -torch.inf, dtype=logprobs_S.dtype)
    logprobs_NK[known_NK] = logprobs_S
    # Of the first `width` ids at least as many are unknown as places are left; a larger one is marked beyond them.
    marked_NK = ids_NK.clamp(max=width).where(known_NK, width)
    taken_NK = torch.zeros((len(sizes_N), width + 1), dtype=torch.bool).scatter_(1, marked_NK, True)[:, :width]
    others_NK = taken_NK.int().argsort(dim=1, stable=True)
    return TopK(ids_NK.where(known_NK, others_NK.gather(1, place_NK.clamp(min=0))), logprobs_NK, tail_N)


def widened(target: TopK, width: int) -> TopK:
    """The target with room for `width` ids."""
    import torch

    tokens, top = target.ids_NK.shape
    if top == width:
        return target
    sizes_N = torch.full((tokens,), top)
    return rectangle(sizes_N, target.ids_NK.flatten(), target.logprobs_NK.flatten(), target.tail_N, width=width)

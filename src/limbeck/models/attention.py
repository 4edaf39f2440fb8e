"""Attention by plain matrix products, for short rows in bfloat16 on a processor.

There PyTorch's own kernel (`scaled_dot_product_attention`) takes up to twice as long forward and up to five times as
long with the backward pass (docs/notebook.md). What it saves, the memory of all scores, is little where rows are short;
elsewhere it is asked as before. Axes: B rows, A heads of keys and values, G query heads to each of them, Q queries,
T keys, D dimensions of a head; N is B*A, M is G*Q.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from limbeck.models.room import with_room

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "limbeck"
# Scores of one layer, kept for the backward pass: 67 MB, and as much once more for what they are after the softmax.
MOST_SCORES = 2**25
# What transformers can ask of the kernel beyond these products is left to it, with its errors.
BEYOND = ("position_bias", "softcap", "cache", "output_attentions")


def quicken_attention(model: PreTrainedModel) -> None:
    """Lets a model that runs on PyTorch's attention take the products where they are quicker.

    Some models do more where it is called so (a sparse attention writes what it picks into the mask): they keep it.
    """
    asks_its_name = '"sdpa"' in inspect.getsource(sys.modules[type(model).__module__])
    if (
        model.config._attn_implementation == "sdpa"
        and model._supports_attention_backend
        and not asks_its_name
        and not torch.cuda.is_available()
    ):
        model.set_attn_implementation(NAME)


def reads_trees(config: Any) -> bool:
    """Whether the attention that a model runs on takes any mask of who sees whom: others add a boolean one, or leave
    it out."""
    return config._attn_implementation in ("sdpa", NAME)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **asked: Any
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it (its `AttentionInterface`).

    Query (B, A*G, Q, D), keys and values (B, A, T, D), a mask that broadcasts to (B, A*G, Q, T) and is true where a key
    is seen, or else is added; the result is (B, Q, A*G, D).
    """
    if not _takes_products(module, query, key, attention_mask, asked):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **asked)
    rows, heads, queries, width = query.shape
    seen = key.shape[2]
    if queries == 1 and with_room(key).shape[2] > seen:
        # A product copies what is not contiguous: the room behind what a cache holds is read, too, and not seen.
        key, value = with_room(key), with_room(value)
        addend = query.new_zeros(seen) if attention_mask is None else _addend(attention_mask, query.dtype)
        attention_mask = pad(addend, (0, key.shape[2] - seen), value=torch.finfo(query.dtype).min)
    keys = key.shape[2]
    scaling = asked.get("scaling")
    query_NMD = query.reshape(rows * key.shape[1], -1, width)
    key_NTD = key.reshape(-1, keys, width)
    scaling = width**-0.5 if scaling is None else scaling
    if queries == 1:
        # Keys times query: the cache is read as it lies in memory, in two thirds of the time (docs/notebook.md).
        scores_NMT = torch.bmm(key_NTD, (query_NMD * scaling).transpose(1, 2)).transpose(1, 2).contiguous()
    else:
        scores_NMT = torch.baddbmm(query.new_zeros(()), query_NMD, key_NTD.transpose(1, 2), beta=0, alpha=scaling)
    scores = scores_NMT.view(rows, heads, queries, keys)
    if attention_mask is None and queries > 1:
        attention_mask = torch.ones(queries, keys, dtype=torch.bool).tril()
    if attention_mask is not None:
        scores.add_(_addend(attention_mask, scores.dtype))
    # In bfloat16, which PyTorch sums in float32: to keep the scores in float32 costs half as much time again, and does
    # not show beside the rounding of everything else (docs/notebook.md).
    shares_NMT = scores.softmax(-1).view(*query_NMD.shape[:2], keys)
    mixed = torch.bmm(shares_NMT, value.reshape(-1, keys, value.shape[3]))
    return mixed.view(rows, heads, queries, -1).transpose(1, 2).contiguous(), None


def _takes_products(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, asked: dict[str, Any]) -> bool:
    rows, heads, queries, _ = query.shape
    keys = key.shape[2]
    is_causal = asked.get("is_causal")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    if mask is None:
        masked = queries == 1 or (is_causal and queries == keys)
    else:
        masked = mask.dtype == torch.bool or mask.is_floating_point()
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and rows * heads * queries * keys <= MOST_SCORES
        and masked
        and not asked.get("dropout")
        and all(asked.get(name) is None for name in BEYOND)
    )


def _addend(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as what is added to scores; never minus infinity, for padding that sees nothing must stay a number."""
    least = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, least)
    return mask.to(dtype).clamp(min=least)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)

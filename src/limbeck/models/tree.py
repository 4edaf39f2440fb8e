"""One prompt with several continuations, read by a model in one pass.

Continuations of the same prompt (choices, refusal openings, a taught and a rejected reply) share its tokens
and their own common beginnings: the sequence is a tree, and each token attends to its ancestors alone. The
prompt is thus computed once, and so is the head where branches fork. Several prompts may stand in one row; what
they have in common at their beginning (a system prompt) is computed once too. Axes: B rows, T tokens of a row,
N scored tokens, U places where they are predicted, H hidden, V vocabulary.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.models.attention import reads_trees

# Trees in a row, on average: they share their beginning, but in longer rows attention would cost more than is shared
# (docs/notebook.md).
TREES_PER_ROW = 8
ROW_TOKENS = 512


class Tree(NamedTuple):
    """A prompt and its continuations, as token ids; `prompt` is not empty, nor is any branch."""

    prompt: list[int]
    branches: list[list[int]]

    @property
    def is_chain(self) -> bool:
        """A plain sequence, for which the usual causal mask is right."""
        return len(self.branches) < 2


class Scored(NamedTuple):
    """Where each branch's tokens are predicted, and what they are.

    `row_U` are the distinct places in the flattened (B*T) hidden states, in order of first use; `at_N` is the
    place of each token, `token_N` the token, and `owner_N` counts the branches over the whole batch, in order of
    trees and of branches in a tree.
    """

    row_U: Tensor
    at_N: Tensor
    token_N: Tensor
    owner_N: Tensor


class TreeBatch(NamedTuple):
    """Rows of trees padded on the right. `mask_BTT` is None where every row is a chain."""

    ids_BT: Tensor
    positions_BT: Tensor
    mask_BTT: Tensor | None
    scored: Scored


class _Laid(NamedTuple):
    tokens: list[int]
    parents: list[int]
    depths: list[int]
    predictors: list[list[int]]


def _lay(trees: Sequence[Tree]) -> _Laid:
    laid = _Laid([], [], [], [])
    child: dict[tuple[int, int], int] = {}

    def path(node: int, tokens: Sequence[int]) -> Iterator[int]:
        for token in tokens:
            if (node, token) not in child:
                child[node, token] = len(laid.tokens)
                laid.tokens.append(token)
                laid.parents.append(node)
                laid.depths.append(laid.depths[node] + 1 if node >= 0 else 0)
            node = child[node, token]
            yield node

    for tree in trees:
        *_, prompt_end = path(-1, tree.prompt)
        # What the last token of a branch would predict is asked of nobody; an empty branch has no token at all.
        laid.predictors.extend([prompt_end, *path(prompt_end, branch[:-1])][: len(branch)] for branch in tree.branches)
    return laid


def tree_length(tree: Tree) -> int:
    """Tokens that a model has to read for this tree."""
    return len(tree.prompt) + sum(len(branch) - 1 for branch in tree.branches)


def collate(rows: Sequence[Sequence[Tree]], *, pad: int) -> TreeBatch:
    """Rows of trees as one batch; branches are counted in the order of rows, of trees in them and of their branches."""
    laid = [_lay(row) for row in rows]
    width = max(len(one.tokens) for one in laid)
    ids = torch.full((len(laid), width), pad)
    positions = torch.zeros((len(laid), width), dtype=torch.long)
    place: dict[int, int] = {}
    at: list[int] = []
    tokens: list[int] = []
    owners: list[int] = []
    count = 0
    for b, (row, one) in enumerate(zip(rows, laid, strict=True)):
        ids[b, : len(one.tokens)] = torch.tensor(one.tokens)
        positions[b, : len(one.tokens)] = torch.tensor(one.depths)
        branches = (branch for tree in row for branch in tree.branches)
        for branch, path in zip(branches, one.predictors, strict=True):
            at += [place.setdefault(b * width + node, len(place)) for node in path]
            tokens += branch
            owners += [count] * len(branch)
            count += 1
    chains = all(len(row) == 1 and row[0].is_chain for row in rows)
    return TreeBatch(
        ids,
        positions,
        None if chains else _ancestor_mask(laid, width),
        Scored(*(torch.tensor(column, dtype=torch.long) for column in (list(place), at, tokens, owners))),
    )


def _ancestor_mask(laid: Sequence[_Laid], width: int) -> Tensor:
    # Padding sees itself, so that no row of the softmax is empty.
    mask = torch.eye(width, dtype=torch.bool).repeat(len(laid), 1, 1)
    for b, one in enumerate(laid):
        for node, parent in enumerate(one.parents):
            if parent >= 0:
                mask[b, node] |= mask[b, parent]
    return mask


def hidden_states(decoder: nn.Module, batch: TreeBatch) -> Tensor:
    """The last hidden state at each place that predicts something, shape (U, H)."""
    mask = None if batch.mask_BTT is None else batch.mask_BTT[:, None]
    if mask is not None and not reads_trees(decoder.config):
        attention = decoder.config._attn_implementation
        raise InputError(
            f"attention '{attention}' cannot read several continuations at once; use a model that runs on sdpa"
        )
    hidden_BTH = decoder(
        input_ids=batch.ids_BT, attention_mask=mask, position_ids=batch.positions_BT, use_cache=False
    ).last_hidden_state
    return hidden_BTH.flatten(0, 1)[batch.scored.row_U]


def to_device(batch: TreeBatch, device: torch.device) -> TreeBatch:
    """The same batch on another device."""
    return TreeBatch(
        batch.ids_BT.to(device),
        batch.positions_BT.to(device),
        None if batch.mask_BTT is None else batch.mask_BTT.to(device),
        Scored(*(part.to(device) for part in batch.scored)),
    )


def by_length(lengths: Sequence[int], *, budget: int) -> Iterator[list[int]]:
    """Positions of items sorted by length and cut so that count × longest stays within `budget` tokens."""
    batch: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def packed(lengths: Sequence[int], *, budget: int, per_row: int = TREES_PER_ROW) -> Iterator[list[list[int]]]:
    """Positions of items in batches of rows: up to `per_row` to a row, on average, the rows of a batch about equally
    long, and their count × the longest within `budget` tokens. The longest items come first."""
    batch: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        if batch and not _fits([*batch, item], lengths, budget=budget, per_row=per_row):
            yield _rows(batch, lengths, per_row=per_row)
            batch = []
        batch.append(item)
    if batch:
        yield _rows(batch, lengths, per_row=per_row)


def _rows(items: Sequence[int], lengths: Sequence[int], *, per_row: int) -> list[list[int]]:
    """The items, longest first, each put into the row that has the fewest tokens so far."""
    whole = sum(lengths[item] for item in items)
    per_row = max(1, min(per_row, ROW_TOKENS * len(items) // whole))
    rows: list[list[int]] = [[] for _ in range(math.ceil(len(items) / per_row))]
    filled = [(0, row) for row in range(len(rows))]
    for item in items:
        tokens, emptiest = filled[0]
        rows[emptiest].append(item)
        heapq.heapreplace(filled, (tokens + lengths[item], emptiest))
    return rows


def _fits(items: Sequence[int], lengths: Sequence[int], *, budget: int, per_row: int) -> bool:
    """Whether the rows of these items, padded to the longest, stay within the budget."""
    rows = _rows(items, lengths, per_row=per_row)
    return len(rows) * max(sum(lengths[item] for item in row) for row in rows) <= budget

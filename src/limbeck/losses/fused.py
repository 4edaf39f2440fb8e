"""The output head and everything that losses ask of it, a few rows at a time.

The logits of a reply are what a training step has the most of: 49,152 or 150,000 for each token. Here they exist for
one block of rows at a time, small enough for the processor's cache: projected, asked by the losses, turned into their
own gradient in place and projected back. Every loss that is a function of log-probabilities runs through it unchanged.
Axes: U places that the model has read, N places of a block, K kept ids, V vocabulary, H hidden, G objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from limbeck.losses.places import Kept, Places, Plain
from limbeck.protocols import OutputHead

# Logits of a block: 16 MB in float32, within the third-level cache of today's processors.
BLOCK_LOGITS = 4 * 2**20
LEAST_ROWS = 16
Item = TypeVar("Item")


class Work(NamedTuple, Generic[Item]):
    """One block: what the objective is handed, which rows of each hidden input it reads, and the ids that it will ask
    for with their rest."""

    item: Item
    rows: tuple[Tensor, ...]
    kept_NK: Tensor | None = None


Objective = Callable[[Item, Sequence["Block"]], Tensor]


def block_rows(vocabulary: int) -> int:
    """How many rows of logits are computed at once."""
    return max(LEAST_ROWS, BLOCK_LOGITS // vocabulary)


def fused(objective: Objective[Item], works: Iterable[Work[Item]], head: OutputHead, *hidden: Tensor) -> Tensor:
    """The sum over all blocks of an objective of log-probabilities, shape (G,), differentiable in each `hidden`
    (U, H) and, where it is not frozen, in the head.

    The objective is called once a block with its item and, for each hidden input, what the head says at its rows. It
    gives G values, each with a gradient of its own; what it computes from other tensors gets none.
    """
    return _Fused.apply(objective, works, head, *hidden, head.weight_VH, head.bias_V)


class Block(Places):
    """Places whose logits exist for as long as the block does.

    Whatever is asked of it hangs on few leaves: single logits, the log of the summed rest, all logits only where
    `every` was asked for. `slope` turns the gradient on those into the gradient on all logits.
    """

    def __init__(self, logits_NV: Tensor, kept_NK: Tensor | None = None) -> None:
        self.logits_NV = logits_NV
        self.vocabulary = logits_NV.shape[1]
        self.kept_NK = kept_NK
        self.single: list[tuple[Tensor, Tensor, Tensor]] = []
        self.tempered: dict[float, Tensor] = {}
        self.all_NV: Tensor | None = None
        kept_logits_NK = logits_NV.gather(1, kept_NK) if kept_NK is not None else None
        if kept_NK is not None:
            logits_NV.scatter_(1, kept_NK, -torch.inf)
        # Where every id is kept there is nothing left to be the largest.
        largest_N1 = logits_NV.amax(-1, keepdim=True).clamp(min=torch.finfo(logits_NV.dtype).min)
        self.mass_NV = torch.sub(logits_NV, largest_N1).exp_()
        self.total_N = self.mass_NV.sum(-1)
        self.rest_N = _leaf(self.total_N.log() + largest_N1[:, 0])
        self.whole_N = self.rest_N
        if kept_NK is not None and kept_logits_NK is not None:
            logits_NV.scatter_(1, kept_NK, kept_logits_NK)
            self.kept_logits_NK = _leaf(kept_logits_NK)
            with torch.enable_grad():
                self.whole_N = torch.logaddexp(self.rest_N, self.kept_logits_NK.logsumexp(-1))

    def __len__(self) -> int:
        return len(self.logits_NV)

    def said(self, token_P: Tensor, *, at_P: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        at_P = torch.arange(len(self), device=token_P.device) if at_P is None else at_P
        logits_P = _leaf(self.logits_NV[at_P, token_P])
        self.single.append((at_P, token_P, logits_P))
        return logits_P / temperature - self._whole_N(temperature)[at_P]

    def kept(self, ids_NK: Tensor) -> Kept:
        if ids_NK is not self.kept_NK and (self.kept_NK is None or not torch.equal(ids_NK, self.kept_NK)):
            return Plain(self.every()).kept(ids_NK)
        return Kept(self.kept_logits_NK - self.whole_N[:, None], self.rest_N - self.whole_N)

    def every(self) -> Tensor:
        if self.all_NV is None:
            self.all_NV = _leaf(self.logits_NV)
        return self.all_NV - self.whole_N[:, None]

    def _whole_N(self, temperature: float) -> Tensor:
        if temperature == 1.0:
            return self.whole_N
        if temperature not in self.tempered:
            self.tempered[temperature] = _leaf((self.logits_NV / temperature).logsumexp(-1))
        return self.tempered[temperature]

    def slope(self, value: Tensor, *, last: bool) -> Tensor | None:
        """The gradient of a value on the logits, shape (N, V), None where it does not hang on them; the `last` one is
        written over what the block holds."""
        kept = [self.kept_logits_NK] if self.kept_NK is not None else []
        every = [self.all_NV] if self.all_NV is not None else []
        if not value.requires_grad:
            return None
        leaves = [self.rest_N, *kept, *every, *self.tempered.values(), *(leaf for _, _, leaf in self.single)]
        found = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
        if all(one is None for one in found):
            return None
        of = {id(leaf): one for leaf, one in zip(leaves, found, strict=True) if one is not None}
        slope_NV = self.mass_NV if last else self.mass_NV.clone()
        # Nothing but kept ids, or a rest that nobody asked for, pulls nowhere.
        pull_N = of.get(id(self.rest_N), torch.zeros_like(self.total_N))
        slope_NV.mul_((pull_N / self.total_N).where(self.total_N > 0, 0.0)[:, None])
        if self.all_NV is not None and id(self.all_NV) in of:
            slope_NV.add_(of[id(self.all_NV)])
        for temperature, whole_N in self.tempered.items():
            if id(whole_N) in of:
                share_NV = torch.exp(self.logits_NV / temperature - whole_N[:, None])
                slope_NV.add_(share_NV.mul_(of[id(whole_N)][:, None] / temperature))
        for at_P, token_P, logits_P in self.single:
            if id(logits_P) in of:
                slope_NV.index_put_((at_P, token_P), of[id(logits_P)], accumulate=True)
        if self.kept_NK is not None and id(self.kept_logits_NK) in of:
            slope_NV.scatter_add_(1, self.kept_NK, of[id(self.kept_logits_NK)])
        return slope_NV


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


class _Fused(torch.autograd.Function):
    """All of the gradient is known at the end of the forward pass; backward only scales it."""

    @staticmethod
    def forward(
        ctx: Any, objective: Objective[Any], works: Iterable[Work[Any]], head: OutputHead, *learnt: Tensor
    ) -> Tensor:
        *hidden, weight_VH, _ = learnt
        *wanted, wants_weight, wants_bias = ctx.needs_input_grad[3:]
        totals: list[Tensor] = []
        gradients: list[list[Any]] = []
        for item, places, kept_NK in works:
            read = [one[rows] for one, rows in zip(hidden, places, strict=True)]
            # A hidden input that has no place in this block is asked for no id either.
            blocks = [Block(head.logits(one), None if kept_NK is None else kept_NK[: len(one)]) for one in read]
            with torch.enable_grad():
                values = objective(item, blocks).unbind()
            if not totals:
                totals = [torch.zeros_like(value.detach()) for value in values]
                gradients = [list(map(_sum_of, learnt, ctx.needs_input_grad[3:])) for _ in totals]
            for g, value in enumerate(values):
                totals[g] += value.detach()
                for s, (block, one, rows) in enumerate(zip(blocks, read, places, strict=True)):
                    slope_NV = block.slope(value, last=g + 1 == len(values)) if wanted[s] or wants_weight else None
                    if slope_NV is None:
                        continue
                    head.before_scaling_(slope_NV, block.logits_NV)
                    if wanted[s]:
                        slope_NH = slope_NV.to(weight_VH.dtype) @ weight_VH
                        gradients[g][s].index_add_(0, rows, slope_NH.to(gradients[g][s].dtype))
                    if wants_weight:
                        gradients[g][-2].addmm_(slope_NV.t(), one.to(slope_NV.dtype))
                    if wants_bias:
                        gradients[g][-1] += slope_NV.sum(0)
        ctx.gradients = gradients
        return torch.stack(totals)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (outer_G,) = outer
        of_each = [
            None if parts[0] is None else sum(pull * part for pull, part in zip(outer_G, parts, strict=True))
            for parts in zip(*ctx.gradients, strict=True)
        ]
        return None, None, None, *of_each


def _sum_of(learnt: Tensor, wanted: bool) -> Tensor | None:
    """Zeros to sum a gradient in, in no less than single precision."""
    return torch.zeros_like(learnt, dtype=torch.promote_types(learnt.dtype, torch.float32)) if wanted else None

"""The output head and everything that losses ask of it, a few rows at a time.

The logits of a reply are what a training step has the most of: 49,152 or 150,000 for each token. Here they exist for
some rows at a time: projected together, asked by the losses a few rows at once (so few that every pass over them stays
in the processor's cache), turned into their own gradient in place and projected back together. Every loss that is a
function of log-probabilities runs through it unchanged. Axes: U places that a model has read, N places of a block, K
kept ids, V vocabulary, H hidden, G objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from limbeck.losses.places import FullPlaces, Kept, Places
from limbeck.protocols import OutputHead

# Logits that are projected at once, 25 MB in float32: enough rows for a fast product, and few enough for the C library
# to hand the same memory out again (from 32 MB on each block would be zeroed by the kernel first).
PROJECTED_LOGITS = 6 * 2**20
# Logits that losses look at at once, 2 MB: within the second-level cache of a processor. A GPU has no use for it.
ASKED_LOGITS = 2**19
LEAST_ROWS = 16
Item = TypeVar("Item")


class Source(NamedTuple):
    """Hidden states (U, H) and their head, and whose gradients anybody wants. Where neither's, what is said is
    `FullPlaces`."""

    head: OutputHead
    hidden_UH: Tensor
    learns: Literal["both", "hidden", "neither"] = "both"

    @property
    def learnt(self) -> Iterator[Tensor | None]:
        """Hidden states, weight and bias, detached where nobody wants their gradient."""
        yield self.hidden_UH if self.learns != "neither" else self.hidden_UH.detach()
        for one in (self.head.weight_VH, self.head.bias_V):
            yield one if self.learns == "both" or one is None else one.detach()


class Work(NamedTuple, Generic[Item]):
    """One block: what the objective is handed, which rows of each source it reads, and the ids that it will ask for
    with their rest, of the sources that have a gradient."""

    item: Item
    rows: tuple[Tensor, ...]
    kept_NK: Tensor | None = None


BlockObjective = Callable[[Item, Sequence[Places]], Tensor]


def block_rows(vocabulary: int, device: torch.device) -> int:
    """How many rows losses should look at at once."""
    if device.type != "cpu":
        return _projected_rows(vocabulary)
    return max(1, ASKED_LOGITS // vocabulary)


def _projected_rows(vocabulary: int) -> int:
    return max(LEAST_ROWS, PROJECTED_LOGITS // vocabulary)


def fused(objective: BlockObjective[Item], works: Iterable[Work[Item]], sources: Sequence[Source]) -> Tensor:
    """The sum over all blocks of an objective of log-probabilities, shape (G,), differentiable in the hidden states
    and, where they are not frozen, in the heads.

    The objective is called once a block with its item and, for each source, what the head says at its rows. It gives G
    values, each with a gradient of its own; what it computes from other tensors gets none.
    """
    return _Fused.apply(objective, works, sources, *chain.from_iterable(one.learnt for one in sources))


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
        self.others: list[tuple[Tensor, Tensor, float, Tensor]] = []
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

    def among(self, ids_K: Tensor, *, at_P: Tensor, temperature: float) -> Kept:
        logits_PK = _leaf(self.logits_NV[at_P[:, None], ids_K])
        self.single.append((at_P[:, None].expand_as(logits_PK), ids_K.expand_as(logits_PK), logits_PK))
        others_PV = self.logits_NV[at_P].div_(temperature).index_fill_(1, ids_K, -torch.inf)
        others_P = _leaf(others_PV.logsumexp(-1))
        self.others.append((at_P, ids_K, temperature, others_P))
        scaled_PK = logits_PK / temperature
        whole_P = torch.logaddexp(others_P, scaled_PK.logsumexp(-1))
        return Kept(scaled_PK - whole_P[:, None], others_P - whole_P)

    def kept(self, ids_NK: Tensor) -> Kept:
        if ids_NK is not self.kept_NK and (self.kept_NK is None or not torch.equal(ids_NK, self.kept_NK)):
            return FullPlaces(self.every()).kept(ids_NK)
        return Kept(self.kept_logits_NK - self.whole_N[:, None], self.rest_N - self.whole_N)

    def every(self) -> Tensor:
        if self.all_NV is None:
            self.all_NV = _leaf(self.logits_NV)
        # A sum: the gradient of a difference would be negated as a whole.
        return self.all_NV + self.whole_N.neg()[:, None]

    def _whole_N(self, temperature: float) -> Tensor:
        if temperature == 1.0:
            return self.whole_N
        if temperature not in self.tempered:
            self.tempered[temperature] = _leaf((self.logits_NV / temperature).logsumexp(-1))
        return self.tempered[temperature]

    def slope(self, value: Tensor, *, last: bool) -> Tensor:
        """The gradient of a value on the logits, shape (N, V); the `last` one is written over what the block holds."""
        kept = [self.kept_logits_NK] if self.kept_NK is not None else []
        every = [self.all_NV] if self.all_NV is not None else []
        if not value.requires_grad:
            return self.mass_NV.zero_() if last else torch.zeros_like(self.mass_NV)
        others = [leaf for *_, leaf in self.others]
        leaves = [self.rest_N, *kept, *every, *self.tempered.values(), *others, *(leaf for _, _, leaf in self.single)]
        found = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
        of = {id(leaf): one for leaf, one in zip(leaves, found, strict=True) if one is not None}
        # Nothing but kept ids, or a rest that nobody asked for, pulls nowhere.
        pull_N = of.get(id(self.rest_N), torch.zeros_like(self.total_N))
        share_N1 = (pull_N / self.total_N).where(self.total_N > 0, 0.0)[:, None]
        slope_NV = self.mass_NV if last else torch.empty_like(self.mass_NV)
        if self.all_NV is not None and id(self.all_NV) in of:
            torch.addcmul(of[id(self.all_NV)], self.mass_NV, share_N1, out=slope_NV)
        else:
            torch.mul(self.mass_NV, share_N1, out=slope_NV)
        for temperature, whole_N in self.tempered.items():
            if id(whole_N) in of:
                share_NV = torch.exp(self.logits_NV / temperature - whole_N[:, None])
                slope_NV.add_(share_NV.mul_(of[id(whole_N)][:, None] / temperature))
        for at_P, ids_K, temperature, others_P in self.others:
            if id(others_P) in of:
                share_PV = self.logits_NV[at_P].div_(temperature).sub_(others_P.detach()[:, None]).exp_()
                share_PV.index_fill_(1, ids_K, 0.0).mul_(of[id(others_P)][:, None] / temperature)
                slope_NV.index_add_(0, at_P, share_PV)
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
        ctx: Any, objective: BlockObjective[Any], works: Iterable[Work[Any]], sources: Sequence[Source], *learnt: Tensor
    ) -> Tensor:
        wanted = ctx.needs_input_grad[3:]
        learns = [any(wanted[3 * s : 3 * s + 3]) for s in range(len(sources))]
        sums = _Sums(learnt, wanted)
        for group in _grouped(works, _projected_rows(len(sources[0].head.weight_VH))):
            _add_group(sums, objective, group, sources, learns)
        # Saved so that they are freed with the graph: what is handed on unscaled is then taken over, not copied.
        ctx.save_for_backward(*chain.from_iterable(sums.gradients))
        return torch.stack(sums.totals)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        pulls = outer[0].tolist()
        each = len(ctx.saved_tensors) // len(pulls)
        by_objective = [ctx.saved_tensors[g * each : (g + 1) * each] for g in range(len(pulls))]
        return None, None, None, *(_pulled(pulls, parts) for parts in zip(*by_objective, strict=True))


def _pulled(pulls: Sequence[float], parts: Sequence[Tensor | None]) -> Tensor | None:
    """The parts, each times its pull, as one; a single part that pulls once is itself."""
    total = None
    for pull, part in zip(pulls, parts, strict=True):
        if part is not None and pull != 0:
            scaled = part if pull == 1 else part * pull
            total = scaled if total is None else total + scaled
    return total


def _add_group(
    sums: _Sums,
    objective: BlockObjective[Item],
    group: Sequence[Work[Item]],
    sources: Sequence[Source],
    learns: Sequence[bool],
) -> None:
    """Projects a group of blocks, asks the objective block by block, and projects the gradients back."""
    rows_of = [torch.cat([work.rows[s] for work in group]) for s in range(len(sources))]
    read = [source.hidden_UH[rows] for source, rows in zip(sources, rows_of, strict=True)]
    logits = [source.head.logits(hidden_NH) for source, hidden_NH in zip(sources, read, strict=True)]
    slopes: list[list[Tensor]] = []
    starts = [0] * len(sources)
    for work in group:
        mine = [slice(start, start + len(rows)) for start, rows in zip(starts, work.rows, strict=True)]
        starts = [one.stop for one in mine]
        places = [
            _said(whole[some], work.kept_NK) if learning else FullPlaces(whole[some].log_softmax(-1))
            for whole, some, learning in zip(logits, mine, learns, strict=True)
        ]
        with torch.enable_grad():
            values = objective(work.item, places).unbind()
        sums.add(values)
        # The first gradient is written over the logits themselves, which nobody asks for again.
        slopes = slopes or [logits, *([torch.empty_like(one) for one in logits] for _ in values[1:])]
        for s, block in enumerate(places):
            if isinstance(block, Block):
                found = [
                    sources[s].head.before_scaling(block.slope(value, last=g + 1 == len(values)), block.logits_NV)
                    for g, value in enumerate(values)
                ]
                for slope_NV, of_sources in zip(found, slopes, strict=True):
                    of_sources[s][mine[s]] = slope_NV
    for g, of_sources in enumerate(slopes):
        for s, source in enumerate(sources):
            if learns[s]:
                sums.project(g, s, of_sources[s], source.head, read[s], rows_of[s])


def _said(logits_NV: Tensor, kept_NK: Tensor | None) -> Block:
    """A block; a source that has no place in it is asked for no id either."""
    return Block(logits_NV, None if kept_NK is None else kept_NK[: len(logits_NV)])


class _Sums:
    """Objectives and their gradients on hidden states, weight and bias of each source, summed over blocks."""

    def __init__(self, learnt: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        self.learnt = learnt
        self.wanted = wanted
        self.totals: list[Tensor] = []
        self.gradients: list[list[Any]] = []

    def add(self, values: Sequence[Tensor]) -> None:
        """Adds the objectives of a block."""
        if not self.totals:
            self.totals = [torch.zeros_like(value.detach()) for value in values]
            # In no less than single precision.
            self.gradients = [
                [
                    torch.zeros_like(one, dtype=torch.promote_types(one.dtype, torch.float32)) if want else None
                    for one, want in zip(self.learnt, self.wanted, strict=True)
                ]
                for _ in values
            ]
        for total, value in zip(self.totals, values, strict=True):
            total += value.detach()

    def project(self, g: int, s: int, slope_NV: Tensor, head: OutputHead, read_NH: Tensor, rows: Tensor) -> None:
        """Adds what the gradient on the logits of a source means for what it learns."""
        hidden, weight, bias = self.gradients[g][3 * s : 3 * s + 3]
        if hidden is not None:
            hidden.index_add_(0, rows, head.onto_hidden(slope_NV).to(hidden.dtype))
        if weight is not None:
            weight.addmm_(slope_NV.t(), read_NH.to(slope_NV.dtype))
        if bias is not None:
            bias += slope_NV.sum(0)


def _grouped(works: Iterable[Work[Item]], rows: int) -> Iterator[list[Work[Item]]]:
    """Blocks in groups that reach so many rows of the first source."""
    group: list[Work[Item]] = []
    for work in works:
        group.append(work)
        if sum(len(one.rows[0]) for one in group) >= rows:
            yield group
            group = []
    if group:
        yield group

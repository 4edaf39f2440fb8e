"""All losses of a micro-batch, weighed, pulled and divided.

Axes: U places that the model has read, N taught tokens, R rejected ones, L pairs, P tokens of a part, K losses, G
objectives, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.losses.fused import Source, Work, block_rows, fused
from limbeck.losses.noise import Noise
from limbeck.losses.places import FullPlaces, Places
from limbeck.losses.spec import Labels, Loss, Needs, Openings, Pairs, Passes
from limbeck.models.head import Head
from limbeck.models.tree import hidden_states
from limbeck.protocols import LiveTeacher, Spans, TopK
from limbeck.training.parts import Part, parts
from limbeck.training.passes import Reader, compared, under_noise, watching
from limbeck.training.state_maps import StateMaps
from limbeck.training.units import Decided, MicroBatch

ALL = slice(None)

# What is made of states rather than of what they say.
OF_STATES: frozenset[Needs] = frozenset({"contrasts", "reply_contrasts", "states"})


class Objective(nn.Module):
    """One module, so that it can be wrapped: micro-batch in, objectives and figures out.

    Gives the objectives, shape (G,), and what each loss adds to its mean over the whole step, shape (K,). There is one
    objective or, where harmful and harmless prompts are to be `apart`, that of the harmless before that of the harmful.
    """

    def __init__(
        self, model: Any, losses: Sequence[Loss], *, apart: bool = False, live: LiveTeacher | None = None
    ) -> None:
        super().__init__()
        self.model = model
        # Kept out of the module's own parameters: it is never trained, saved or wrapped.
        self.live = (live,)
        self.losses = losses
        self.apart = apart
        self.needs = frozenset(want for loss in losses for want in loss.wants)
        pairs = [pair for loss in losses for pair in loss.layer_pairs]
        looked_at = [layer for loss in losses for layer in loss.student_layers]
        self.layers = sorted({*looked_at, *(student for student, _ in pairs)})
        self.maps = StateMaps(model, live, pairs)
        self.noises = list(dict.fromkeys(loss.under for loss in losses if loss.under is not None))

    def forward(self, micro: MicroBatch, totals_K: Tensor, pulls_K: Tensor) -> tuple[Tensor, Tensor]:
        reader = Reader(self.model)
        hidden_UH, states = reader.read(micro.trees, watched=self.layers)
        at_N = micro.trees.scored.at_N[micro.taught_N]
        asked: dict[str | Noise, _Asked] = {"student": _Asked(Source(reader.head, hidden_UH), at_N)}
        if "base" in self.needs:
            asked["base"] = _Asked(Source(reader.untrained_head, reader.untrained(micro.trees)), at_N)
        live, told_states = self._live(micro)
        if live is not None and "distribution" in self.needs:
            asked["live"] = live
        for noise in self.noises:
            noisy_UH, noisy_at_N = under_noise(reader, micro, noise, hidden_UH.detach())
            asked[noise] = _Asked(Source(reader.head, noisy_UH), noisy_at_N)
        vocabulary = len(reader.head.weight_VH)
        silent = self._silent(micro, vocabulary)
        weigh = _Weigher(self.losses, totals_K, pulls_K, apart=self.apart)
        pulls = _Pulls()
        if "pairs" in {loss.over for loss in self.losses}:
            pulls = _pulls(micro, asked["student"].source, asked["base"].source, weigh, silent)

        def objective(part: Part, places: Sequence[Places]) -> Tensor:
            said = dict(zip(asked, places, strict=True))
            passes = silent
            if part.kind == "taught":
                passes = silent._replace(
                    student=said["student"],
                    teacher=said["live"].every() if "live" in said else part.teacher,
                    spans=part.spans,
                    base=said.get("base", silent.base),
                    noisy={noise: said[noise] for noise in self.noises},
                )
            elif part.kind == "rejected":
                passes = silent._replace(rejected=said["student"])
            else:
                passes = silent._replace(openings=_openings(said["student"], part.decided))
            value_G = weigh(passes, part.labels)
            if (pull_GP := pulls.of(part)) is not None:
                tokens = part.labels.tokens_N if part.kind == "taught" else part.labels.rejected_R
                value_G = value_G + (pull_GP * said["student"].said(tokens)).sum(1)
            return value_G

        works = (
            Work(part, tuple(one.rows(part, name) for name, one in asked.items()), part.kept_NK)
            for part in parts(micro, block_rows(vocabulary, hidden_UH.device))
        )
        value_G = fused(objective, works, [one.source for one in asked.values()])
        if not self.needs.isdisjoint(OF_STATES):
            beside = silent._replace(
                contrasts=compared(micro.prompts, micro.trees, states),
                reply_contrasts=compared(micro.replies, micro.trees, states),
                states=self.maps(micro, states, told_states),
            )
            value_G = value_G + weigh(beside, micro.labels.only(beside=ALL, states=ALL))
        # Hangs on the model even where no loss has a unit, so that every process has something to average.
        idle = hidden_UH.sum() + sum(parameter.sum() for parameter in self.maps.parameters())
        return value_G + 0.0 * idle, weigh.shares_K

    def _live(self, micro: MicroBatch) -> tuple[_Asked | None, dict[int, Tensor]]:
        """The live teacher at the places before taught tokens and its states after watched layers, without gradient."""
        (teacher,) = self.live
        if teacher is None or micro.told is None:
            return None, {}
        decoder = teacher.weights.get_decoder()
        with torch.no_grad(), watching(decoder, self.maps.teacher_layers) as states:
            told_UH = hidden_states(decoder, micro.told)
        return _Asked(Source(Head.of(teacher.weights), told_UH), micro.told.scored.at_N), states

    def _silent(self, micro: MicroBatch, vocabulary: int) -> Passes:
        """Passes in which nobody said anything."""
        nothing = FullPlaces(torch.empty((0, vocabulary), device=micro.trees.ids_BT.device))
        none = nothing.logprobs_NV[:, 0]
        nobody = micro.prompts._replace(anchor_C=micro.prompts.anchor_C[:0])
        return Passes(
            student=nothing,
            rejected=nothing,
            openings=_openings(nothing, micro.decided[0].none),
            teacher=TopK(*(column[:0] for column in micro.teacher)),
            spans=Spans(*(column[:0] for column in micro.spans)),
            base=nothing,
            noisy=dict.fromkeys(self.noises, nothing),
            pairs=Pairs(none, none, none, none),
            contrasts=compared(nobody, micro.trees, {}),
            reply_contrasts=compared(nobody, micro.trees, {}),
            states={},
        )


def _openings(places: Places, decided: Decided) -> Openings:
    return Openings(places, decided.at_BO, decided.token_O, decided.sizes)


class _Asked(NamedTuple):
    """A source, and the place in it of each taught token (N)."""

    source: Source
    at_N: Tensor

    def rows(self, part: Part, name: str | Noise) -> Tensor:
        """What a part reads of it: the student everywhere, others where tokens are taught."""
        if name == "student":
            return part.rows
        return self.at_N[part.some] if part.kind == "taught" else part.rows[:0]


class _Weigher:
    """Values to objectives: each divided by the weight of its loss in the whole step, and times its pull."""

    def __init__(self, losses: Sequence[Loss], totals_K: Tensor, pulls_K: Tensor, *, apart: bool) -> None:
        self.losses = losses
        self.totals_K = totals_K
        self.pulls_K = pulls_K
        self.shares_K = torch.zeros_like(totals_K)
        self.apart = apart

    def __call__(self, passes: Passes, labels: Labels) -> Tensor:
        value_G = torch.zeros(1 + self.apart, device=self.totals_K.device)
        for k, loss in enumerate(self.losses):
            counts = labels.of(loss.over)
            if not len(counts.weight) or not self.totals_K[k] > 0:
                continue
            value, weight = loss(passes, labels)
            mean = value * weight / self.totals_K[k]
            self.shares_K[k] += mean.detach().sum()
            pulled = self.pulls_K[k] * loss.weight * mean * counts.pull
            sides = (pulled[~counts.harmful], pulled[counts.harmful]) if self.apart else (pulled,)
            value_G = value_G + torch.stack([side.sum() for side in sides])
        return value_G


class _Pulls(NamedTuple):
    """How each objective changes with the log-probability of each taught (N) and each rejected token (R)."""

    taught_GN: Tensor | None = None
    rejected_GR: Tensor | None = None

    def of(self, part: Part) -> Tensor | None:
        found = {"taught": self.taught_GN, "rejected": self.rejected_GR}.get(part.kind)
        return None if found is None else found[:, part.some]


def _pulls(micro: MicroBatch, student: Source, base: Source, weigh: _Weigher, silent: Passes) -> _Pulls:
    """What losses on whole replies ask of single tokens.

    They know only sums over replies, so their slope is the same at each token of one. The sums are taken first, without
    gradient, at the price of projecting once more.
    """
    owners = {"taught": micro.chosen_N, "rejected": micro.avoided_R}
    sums = {
        (kind, at): torch.zeros(int(owner.max()) + 1 if len(owner) else 0, device=owner.device)
        for kind, owner in owners.items()
        for at in range(2)
    }

    def take(part: Part, places: Sequence[Places]) -> Tensor:
        tokens = part.labels.tokens_N if part.kind == "taught" else part.labels.rejected_R
        for at, said in enumerate(places):
            sums[part.kind, at].index_add_(0, owners[part.kind][part.some], said.said(tokens).detach())
        return torch.zeros(1)

    rows = block_rows(len(student.head.weight_VH), student.hidden_UH.device)
    works = (Work(part, (part.rows, part.rows)) for part in parts(micro, rows) if part.kind in owners)
    with torch.no_grad():
        fused(take, works, [one._replace(learns="neither") for one in (student, base)])
    leaves = [sums[kind, 0].requires_grad_() for kind in owners]
    of_chosen_L, of_rejected_L = micro.pair_L2.unbind(1)
    with torch.enable_grad():
        pairs = Pairs(
            leaves[0][of_chosen_L],
            leaves[1][of_rejected_L],
            sums["taught", 1][of_chosen_L],
            sums["rejected", 1][of_rejected_L],
        )
        value_G = weigh(silent._replace(pairs=pairs), micro.labels.only(pairs=ALL))
        slopes = [
            torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
            for value in value_G.unbind()
            if value.requires_grad
        ]
    if not slopes:
        return _Pulls()
    of_chosen, of_rejected = (torch.stack(list(one)) for one in zip(*slopes, strict=True))
    return _Pulls(of_chosen[:, micro.chosen_N], of_rejected[:, micro.avoided_R])

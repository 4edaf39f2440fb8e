"""What losses learn of the lessons of one forward pass, collected into tensors unit by unit.

Axes: N taught tokens, R rejected ones, B prompts with a risk, O tokens of openings, L pairs, C comparisons, M others in
one, P places that are pooled, G rows of spans, W ids of a row, K kept ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from limbeck.losses.spec import Counts, Labels
from limbeck.models.tree import TreeBatch
from limbeck.protocols import Spans, TopK
from limbeck.records import Lesson
from limbeck.targets.ragged import widened
from limbeck.targets.spans import placed
from limbeck.training.wording import Wording

Soft = TypeVar("Soft", TopK, Spans)

# Whose tokens those before an answer are among the replies that are paired.
NO_REPLY = -1


class Compared(NamedTuple):
    """States to compare: which scored tokens are pooled into each (`owner_P`), and who is compared with whom."""

    at_P: Tensor
    owner_P: Tensor
    anchor_C: Tensor
    others_CM: Tensor
    valid_CM: Tensor


class Decided(NamedTuple):
    """Decisions in the same words: which of all they are, where each token of the words is scored, and the words."""

    which_B: Tensor
    at_BO: Tensor
    token_O: Tensor
    sizes: tuple[int, ...]

    @property
    def none(self) -> Decided:
        """None of them."""
        return self._replace(which_B=self.which_B[:0], at_BO=self.at_BO[:0])


class MicroBatch(NamedTuple):
    """One forward pass: the trees, the labels, and which scored tokens belong to which loss.

    `decided` are the prompts with a risk, those that are decided in the same words together. `chosen_N` and
    `avoided_R` count the replies that tokens belong to, `pair_L2` is which of them are pairs. `rewritten` are the trees
    of taught replies after their prompts written otherwise, `told` those after what a live teacher sees; None where
    nobody wants them.
    """

    trees: TreeBatch
    labels: Labels
    taught_N: Tensor
    rejected_R: Tensor
    decided: tuple[Decided, ...]
    teacher: TopK
    spans: Spans
    chosen_N: Tensor
    avoided_R: Tensor
    pair_L2: Tensor
    prompts: Compared
    replies: Compared
    rewritten: TreeBatch | None
    told: TreeBatch | None


class _Counting:
    """The shares of one kind of units, as they come."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, bool]] = []

    def add(self, lesson: Lesson, weight: float, pull: float, count: int = 1) -> None:
        self.rows += [(weight, pull, lesson.prompt.conduct == "refuse")] * count

    def counts(self) -> Counts:
        columns = list(zip(*self.rows, strict=True)) or [(), (), ()]
        return Counts(
            torch.tensor(columns[0], dtype=torch.float32),
            torch.tensor(columns[1], dtype=torch.float32),
            torch.tensor(columns[2], dtype=torch.bool),
        )


class _Comparisons:
    """States and comparisons, as they come."""

    def __init__(self) -> None:
        self.states: list[list[int]] = []
        self.rows: list[tuple[int, list[int]]] = []

    def add(self, anchor: list[int], others: list[list[int]]) -> None:
        first = len(self.states)
        self.states += [anchor, *others]
        self.rows.append((first, list(range(first + 1, len(self.states)))))

    def compared(self) -> Compared:
        width = max((len(others) for _, others in self.rows), default=0)
        others = [others + [0] * (width - len(others)) for _, others in self.rows]
        valid = [[place < len(others) for place in range(width)] for _, others in self.rows]
        owners = [owner for owner, state in enumerate(self.states) for _ in state]
        return Compared(
            torch.tensor([at for state in self.states for at in state], dtype=torch.long),
            torch.tensor(owners, dtype=torch.long),
            torch.tensor([anchor for anchor, _ in self.rows], dtype=torch.long),
            torch.tensor(others, dtype=torch.long).view(len(self.rows), width),
            torch.tensor(valid, dtype=torch.bool).view(len(self.rows), width),
        )


class Collected:
    """The units of all lessons that one forward pass reads, with all the words in which refusals are read."""

    def __init__(self, trees: TreeBatch, wordings: Sequence[Wording]) -> None:
        self.trees = trees
        self.wordings = wordings
        self.taught: list[int] = []
        self.positions: list[int] = []
        self.known: list[bool] = []
        self.teachers: list[tuple[int, TopK | None]] = []
        self.spans: list[tuple[int, Spans | None]] = []
        self.chosen: list[int] = []
        self.rejected: list[int] = []
        self.avoided: list[int] = []
        self.decisions: list[tuple[Wording, list[int]]] = []
        self.risks: list[float] = []
        self.pairs: list[tuple[int, int]] = []
        self.prompts, self.replies = _Comparisons(), _Comparisons()
        self.of_taught, self.of_rejected, self.of_prompts, self.of_pairs = (_Counting() for _ in range(4))
        self.of_contrasts, self.of_replies, self.of_states = (_Counting() for _ in range(3))
        self.replies_so_far = self.avoided_so_far = 0

    def of(self, lesson: Lesson, *, pull: float) -> _Learning:
        """Where the units of the next lesson go."""
        return _Learning(self, lesson, pull)

    def batch(self, *, rewritten: TreeBatch | None, told: TreeBatch | None) -> MicroBatch:
        """All of them as tensors."""
        tokens_N = self.trees.scored.token_N
        spanned = _spanned(self.spans)
        taught_N, rejected_R = (torch.tensor(rows, dtype=torch.long) for rows in (self.taught, self.rejected))
        # Reasoning counts for one more reply, which is in no pair.
        chosen = [self.replies_so_far if one == NO_REPLY else one for one in self.chosen]
        labels = Labels(
            taught=self.of_taught.counts(),
            rejected=self.of_rejected.counts(),
            prompts=self.of_prompts.counts(),
            pairs=self.of_pairs.counts(),
            contrasts=self.of_contrasts.counts(),
            reply_contrasts=self.of_replies.counts(),
            states=self.of_states.counts(),
            tokens_N=tokens_N[taught_N],
            position_N=torch.tensor(self.positions, dtype=torch.long),
            known_N=torch.tensor(self.known, dtype=torch.bool),
            spanned_N=spanned.known_N,
            rejected_R=tokens_N[rejected_R],
            risk_B=torch.tensor(self.risks, dtype=torch.float32),
        )
        return MicroBatch(
            trees=self.trees,
            labels=labels,
            taught_N=taught_N,
            rejected_R=rejected_R,
            decided=tuple(map(self._decided, self.wordings)),
            teacher=_stacked(self.teachers),
            spans=spanned,
            chosen_N=torch.tensor(chosen, dtype=torch.long),
            avoided_R=torch.tensor(self.avoided, dtype=torch.long),
            pair_L2=torch.tensor(self.pairs, dtype=torch.long).view(len(self.pairs), 2),
            prompts=self.prompts.compared(),
            replies=self.replies.compared(),
            rewritten=rewritten,
            told=told,
        )

    def _decided(self, wording: Wording) -> Decided:
        mine = {which: places for which, (words, places) in enumerate(self.decisions) if words is wording}
        token_O = torch.tensor(wording.tokens)
        at_BO = torch.tensor(list(mine.values()), dtype=torch.long).view(len(mine), len(token_O))
        return Decided(torch.tensor(list(mine), dtype=torch.long), at_BO, token_O, wording.sizes)


class _Learning:
    """The units of one lesson, all with its pull. Places are those of tokens among all that the pass scores."""

    def __init__(self, units: Collected, lesson: Lesson, pull: float) -> None:
        self.units = units
        self.lesson = lesson
        self.pull = pull
        self.is_answered = False
        # The taught answer, then each rejected one, without their first tokens: what is pooled of each.
        self.pooled: list[list[int]] = []

    def decide(self, wording: Wording, openings: Sequence[Sequence[int]], *, risk: float) -> None:
        """A decision, by the places of the openings' tokens."""
        places = wording.rest_last(openings)
        # What goes on from the first opening weighs nothing where there is no risk; any place will do.
        missing = len(wording.tokens) - len(places)
        self.units.decisions.append((wording, places + places[-1:] * missing))
        self.units.risks.append(risk)
        self.units.of_prompts.add(self.lesson, 1.0, self.pull)

    def reply(
        self,
        places: Sequence[int],
        *,
        reasoned: int,
        reasoning_weight: float,
        known: Sequence[bool],
        target: TopK | None,
        spans: Spans | None,
        states: bool,
    ) -> None:
        """The reply, of which the first `reasoned` tokens come before the answer, and what teachers say of it."""
        units, lesson, answer = self.units, self.lesson, len(places) - reasoned
        units.taught += places
        units.positions += range(-reasoned, answer)
        shares = [(units.of_taught, lesson.weight)]
        if states:
            shares.append((units.of_states, 0.0 if lesson.by_house else lesson.weight))
        for share, weight in shares:
            share.add(lesson, reasoning_weight * weight, self.pull, reasoned)
            share.add(lesson, weight, self.pull, answer)
        units.known += known
        units.teachers.append((len(places), target))
        units.spans.append((len(places), spans))
        units.chosen += [NO_REPLY] * reasoned + [units.replies_so_far] * answer
        units.replies_so_far += 1
        self.is_answered = True
        self.pooled.append(list(places[reasoned + 1 :]))

    def avoid(self, rejected: Sequence[Sequence[int]]) -> None:
        """Rejected replies, each in a pair with the reply where there is one."""
        units = self.units
        for places in rejected:
            units.rejected += places
            units.of_rejected.add(self.lesson, 1.0, self.pull, len(places))
            units.avoided += [units.avoided_so_far] * len(places)
            if self.is_answered:
                units.pairs.append((units.replies_so_far - 1, units.avoided_so_far))
                units.of_pairs.add(self.lesson, self.lesson.weight, self.pull)
            units.avoided_so_far += 1
            self.pooled.append(list(places[1:]))

    def compare_replies(self, prompt: int, foreign: Sequence[int]) -> None:
        """The end of the prompt beside its reply, the rejected ones and another lesson's."""
        mine, *others = (*self.pooled, list(foreign[1:]))
        # A reply of one token has nothing to pool.
        if mine and (others := list(filter(None, others))):
            self.units.replies.add([prompt], [mine, *others])
            self.units.of_replies.add(self.lesson, self.lesson.weight, self.pull)

    def compare_prompts(self, prompt: int, beside: Sequence[int]) -> None:
        """The end of the prompt beside those of others."""
        self.units.prompts.add([prompt], [[one] for one in beside])
        self.units.of_contrasts.add(self.lesson, 1.0, self.pull)


def _stacked(teachers: Sequence[tuple[int, TopK | None]]) -> TopK:
    """The targets of all replies one after the other; a reply without one gets rows that no loss reads."""
    top = max((target.ids_NK.shape[1] for _, target in teachers if target is not None), default=1)
    parts = []
    for length, target in teachers:
        if target is None:
            parts.append(
                TopK(torch.zeros((length, top), dtype=torch.long), torch.zeros((length, top)), torch.zeros(length))
            )
        else:
            parts.append(widened(_as_long(target, length), top))
    if not parts:
        return TopK(torch.zeros((0, 1), dtype=torch.long), torch.zeros((0, 1)), torch.zeros(0))
    return TopK(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _spanned(replies: Sequence[tuple[int, Spans | None]]) -> Spans:
    """The spans of all replies one after the other. In a reply without them each token stands alone, and nothing is
    known of it; in the place of no id stands one that its row does not have."""
    parts = [_alone(0), *(_as_long(one, length) if one is not None else _alone(length) for length, one in replies)]
    begins, known, ids, logprobs, whole, odd, tail = zip(*parts, strict=True)
    return Spans(
        torch.cat(begins),
        torch.cat(known),
        _filled(_wide(ids, -1)),
        _wide(logprobs, -math.inf),
        torch.cat(whole),
        _wide(odd, -math.inf),
        torch.cat(tail),
    )


def _alone(length: int) -> Spans:
    alone, none_GW, none_G = torch.ones(length, dtype=torch.bool), torch.zeros((0, 0)), torch.zeros(0)
    return placed(alone, ~alone, none_GW.long(), none_GW, none_G, none_GW, none_G)


def _wide(columns: Sequence[Tensor], empty: float) -> Tensor:
    """The rows of all columns, as wide as the widest."""
    width = max(column.shape[1] for column in columns)
    return torch.cat([nn.functional.pad(column, (0, width - column.shape[1]), value=empty) for column in columns])


def _filled(ids_NW: Tensor) -> Tensor:
    """The ids, and in the place of each -1 the least that its row does not have."""
    width = ids_NW.shape[1]
    taken_NW = torch.zeros((len(ids_NW), width + 1), dtype=torch.bool)
    taken_NW = taken_NW.scatter(1, ids_NW.where((ids_NW >= 0) & (ids_NW < width), width), True)[:, :width]
    free_NW = taken_NW.long().argsort(dim=1, stable=True)
    missing_NW = ids_NW < 0
    return free_NW.gather(1, (missing_NW.cumsum(1) - 1).clamp(min=0)).where(missing_NW, ids_NW)


def _as_long(target: Soft, length: int) -> Soft:
    if len(target.tail_N) != length:
        raise AssertionError(f"a reply of {length} tokens has soft targets for {len(target.tail_N)}")
    return target

"""What a teacher says of a reply, put into the tokens of a student with another tokenizer.

Both tokenisations are cut into spans that end at the same byte. Axes: N tokens of the student's, M of the teacher's,
K kept ids of the teacher's, W ids of the student's among the outcomes, U kept ids without a counterpart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.protocols import Spans, TopK

if TYPE_CHECKING:
    from torch import Tensor


class Span(NamedTuple):
    """Tokens of the student's and of the teacher's, by their places in the reply, that stand for the same bytes."""

    student: range
    teacher: range

    @property
    def is_one_token(self) -> bool:
        """Whether both write it as one token."""
        return len(self.student) == len(self.teacher) == 1


def aligned(student: Sequence[bytes], teacher: Sequence[bytes]) -> list[Span]:
    """The shortest spans that end at the same byte in both; none where both do not spell the same text, or a token in
    it stands for nothing.

    Where one of them begins every text with a space, the first span is left out: all that could stand there has one.
    """
    ours, theirs = b"".join(student), b"".join(teacher)
    spaces = [int(ours == b" " + theirs), int(theirs == b" " + ours)]
    if ours[spaces[0] :] != theirs[spaces[1] :] or not (all(student) and all(teacher)):
        return []
    s_ends, t_ends = (
        {end - space: at for at, end in enumerate(accumulate(map(len, side)), 1)}
        for side, space in zip((student, teacher), spaces, strict=True)
    )
    ends = [(0, 0), *((s_ends[end], t_ends[end]) for end in sorted(s_ends.keys() & t_ends.keys()))]
    found = [Span(range(s, s_end), range(t, t_end)) for (s, t), (s_end, t_end) in pairwise(ends)]
    return found[1:] if any(spaces) else found


class Outcomes(NamedTuple):
    """What the teacher says at the start of a span, as probabilities that sum to 1.

    `of` are by the student's ids; `whole` is the span as it is written, where that is no single token in both; `tail`
    is everything else, and what of it are the teacher's kept ids without a counterpart is `odd`.
    """

    of: Mapping[int, float]
    whole: float
    odd: Sequence[float]
    tail: float


def outcomes(
    kept: Sequence[tuple[int, float]],
    written: Sequence[tuple[int, float]],
    *,
    first: int,
    span: Span,
    counterparts: Mapping[int, int],
) -> Outcomes:
    """The outcomes at the start of a span, from the teacher's kept ids there and the span's own ids, each with its
    probability; `first` is the student's first token of it.

    The probability of the span is the product of its tokens'. Who says its first token and then something else says
    another thing: that is what is left of the first token's own probability.
    """
    plain = span.is_one_token and counterparts.get(written[0][0]) == first
    whole = 0.0 if plain else math.prod(p for _, p in written)
    of: dict[int, float] = {} if plain else {first: 0.0}
    odd = []
    for at, p in kept:
        if at == written[0][0] and not plain:
            p = max(0.0, p - whole)
        if (mine := counterparts.get(at)) is not None:
            of[mine] = of.get(mine, 0.0) + p
        elif p > 0:
            odd.append(p)
    if len(span.student) == 1 and not plain:
        # The same text in other tokens of the teacher's.
        whole, of[first] = whole + of[first], 0.0
    tail = max(0.0, 1.0 - math.fsum((*of.values(), whole)))
    return Outcomes(of, whole, sorted(odd, reverse=True), tail)


def spans_of(
    spans: Sequence[Span],
    top: TopK,
    said_M: Tensor,
    *,
    student: Sequence[int],
    teacher: Sequence[int],
    counterparts: Mapping[int, int],
) -> Spans:
    """The teacher's distributions at the start of each span, for a reply of these ids of the student's and of the
    teacher's; `said_M` are the log-probabilities of the latter. Tokens of the student's in no span stand alone."""
    import torch

    ids_MK, p_MK, p_M = top.ids_NK.tolist(), top.logprobs_NK.double().exp().tolist(), said_M.double().exp().tolist()
    found = []
    for span in spans:
        at = span.teacher[0]
        kept = list(zip(ids_MK[at], p_MK[at], strict=True))
        written = [(teacher[place], p_M[place]) for place in span.teacher]
        first = student[span.student[0]]
        found.append(outcomes(kept, written, first=first, span=span, counterparts=counterparts))
    begins_N, known_N = torch.ones(len(student), dtype=torch.bool), torch.zeros(len(student), dtype=torch.bool)
    for span in spans:
        begins_N[span.student.start + 1 : span.student.stop] = False
        known_N[span.student[0]] = True
    return placed(
        begins_N,
        known_N,
        torch.tensor(_even([list(one.of) for one in found], -1), dtype=torch.long),
        _logs([list(one.of.values()) for one in found]),
        _logs([[one.whole] for one in found])[:, 0],
        _logs([one.odd for one in found]),
        _logs([[one.tail] for one in found])[:, 0],
    )


def placed(
    begins_N: Tensor,
    known_N: Tensor,
    ids_GW: Tensor,
    logprobs_GW: Tensor,
    whole_G: Tensor,
    odd_GU: Tensor,
    tail_G: Tensor,
) -> Spans:
    """What is known of G spans at the tokens with which they begin."""
    columns = ((ids_GW, -1), *((column, -math.inf) for column in (logprobs_GW, whole_G, odd_GU, tail_G)))
    rows = (
        column.new_full((len(begins_N), *column.shape[1:]), empty).index_put((known_N,), column)
        for column, empty in columns
    )
    return Spans(begins_N, known_N, *rows)


def _even(rows: Sequence[Sequence[Any]], empty: float) -> list[list[Any]]:
    """The rows, all as long as the longest."""
    width = max(map(len, rows), default=0)
    return [[*row, *[empty] * (width - len(row))] for row in rows]


def _logs(rows: Sequence[Sequence[float]]) -> Tensor:
    import torch

    return torch.tensor(_even(rows, 0.0), dtype=torch.float64).log().float()

"""A micro-batch cut into what is projected at once. Axes: N taught tokens, R rejected ones, B deciding prompts, P of a
part, G objectives."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from limbeck.losses.spec import Labels
from limbeck.protocols import Spans, TopK
from limbeck.training.units import Decided, MicroBatch


class Part(NamedTuple):
    """Some taught tokens, some rejected ones, or some deciding prompts.

    `some` are their numbers in the micro-batch, `rows` the places that they read, among which `decided` finds where
    each token of an opening is predicted; `kept_NK` are the ids that losses ask for with their rest.
    """

    kind: Literal["taught", "rejected", "prompts"]
    some: Tensor
    labels: Labels
    rows: Tensor
    teacher: TopK
    spans: Spans
    decided: Decided
    kept_NK: Tensor | None = None


def parts(micro: MicroBatch, rows: int) -> Iterator[Part]:
    """All of a micro-batch in parts of about so many rows; no token, span or prompt is cut.

    A part whose teacher is live keeps no ids: all of its vocabulary is compared.
    """
    at_N, labels = micro.trees.scored.at_N, micro.labels
    none = micro.decided[0].none
    no_teacher = TopK(*(column[:0] for column in micro.teacher))
    no_spans = Spans(*(column[:0] for column in micro.spans))
    # Apart, so that a part has a teacher for all of its tokens or for none.
    for known in (True, False):
        for some in _whole_spans(torch.nonzero(labels.known_N == known)[:, 0], micro.spans.begins_N, rows):
            teacher = TopK(*(column[some] for column in micro.teacher))
            spans = Spans(*(column[some] for column in micro.spans))
            kept_NK = teacher.ids_NK if known and micro.told is None else None
            if bool(spans.known_N.any()):
                kept_NK = spans.ids_NW
            taught = labels.only(taught=some)
            yield Part("taught", some, taught, at_N[micro.taught_N[some]], teacher, spans, none, kept_NK)
    for some in torch.arange(len(micro.rejected_R), device=at_N.device).split(rows):
        avoided = labels.only(rejected=some)
        kept_NK = avoided.rejected_R[:, None]
        yield Part("rejected", some, avoided, at_N[micro.rejected_R[some]], no_teacher, no_spans, none, kept_NK)
    for words in micro.decided:
        for few in torch.arange(len(words.which_B), device=at_N.device).split(max(1, rows // len(words.token_O))):
            some, at_BO = words.which_B[few], words.at_BO[few]
            places, found_BO = at_N[at_BO].unique(return_inverse=True)
            decided = words._replace(which_B=some, at_BO=found_BO)
            yield Part("prompts", some, labels.only(prompts=some), places, no_teacher, no_spans, decided)


def _whole_spans(some: Tensor, begins_N: Tensor, rows: int) -> tuple[Tensor, ...]:
    """The tokens in parts of at most so many, or of one span that is longer."""
    begins = [*torch.nonzero(begins_N[some])[:, 0].tolist(), len(some)]
    sizes = [0]
    for begin, end in pairwise(begins):
        if sizes[-1] and sizes[-1] + end - begin > rows:
            sizes.append(0)
        sizes[-1] += end - begin
    return some.split(sizes) if len(some) else ()

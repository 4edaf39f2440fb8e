"""A micro-batch cut into what is projected at once. Axes: N taught tokens, R rejected ones, B deciding prompts, P of a
part, G objectives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from limbeck.losses.spec import Labels
from limbeck.protocols import TopK
from limbeck.training.batches import MicroBatch


class Part(NamedTuple):
    """Some taught tokens, some rejected ones, or some deciding prompts.

    `some` are their numbers in the micro-batch, `rows` the places that they read, among which `at_BO` finds where each
    token of an opening is predicted; `kept_NK` are the ids that losses ask for with their rest.
    """

    kind: Literal["taught", "rejected", "prompts"]
    some: Tensor
    labels: Labels
    rows: Tensor
    teacher: TopK
    at_BO: Tensor
    kept_NK: Tensor | None = None


def parts(micro: MicroBatch, rows: int) -> Iterator[Part]:
    """All of a micro-batch in parts of about so many rows; no token and no prompt is cut.

    A part whose teacher is live keeps no ids: all of its vocabulary is compared.
    """
    at_N, labels = micro.trees.scored.at_N, micro.labels
    no_teacher, nowhere_BO = TopK(*(column[:0] for column in micro.teacher)), micro.openings_BO[:0]
    # Apart, so that a part has a teacher for all of its tokens or for none.
    for known in (True, False):
        for some in torch.nonzero(labels.known_N == known)[:, 0].split(rows):
            teacher = TopK(*(column[some] for column in micro.teacher))
            kept_NK = teacher.ids_NK if known and micro.told is None else None
            taught = labels.only(taught=some)
            yield Part("taught", some, taught, at_N[micro.taught_N[some]], teacher, nowhere_BO, kept_NK)
    for some in torch.arange(len(micro.rejected_R), device=at_N.device).split(rows):
        avoided = labels.only(rejected=some)
        kept_NK = avoided.rejected_R[:, None]
        yield Part("rejected", some, avoided, at_N[micro.rejected_R[some]], no_teacher, nowhere_BO, kept_NK)
    for some in torch.arange(len(micro.openings_BO), device=at_N.device).split(max(1, rows // len(micro.opening_O))):
        places, at_BO = at_N[micro.openings_BO[some]].unique(return_inverse=True)
        yield Part("prompts", some, labels.only(prompts=some), places, no_teacher, at_BO)

"""Hidden states: inside, too, the student looks like the teacher."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from limbeck.losses.spec import Labels, LayerPair, Loss, Passes, Units


class HiddenStates(Loss):
    """How far the student's states are from the teacher's, no unit, per taught token; the mean over `layers`.

    Each of `layers` is one of the student's and the one of the teacher's that it is held against. The student's states
    go through a linear map to the teacher's width, which is learnt beside the student and left behind. `cosine` is 1 -
    cos, in [0, 2]; `mse` the squared distance as a share of the squared length of the teacher's state, 0 or more. Helps
    where a teacher of the same family is deeper or wider and there are few lessons. After TinyBERT (Jiao et al. 2019,
    arXiv:1909.10351).
    """

    kind: Literal["hidden_states"] = "hidden_states"
    layers: tuple[LayerPair, ...] = Field(default=((20, 20),), min_length=1)
    distance: Literal["cosine", "mse"] = "cosine"
    needs = frozenset({"reply", "states"})
    over = "states"

    @property
    def layer_pairs(self) -> tuple[LayerPair, ...]:
        return self.layers

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        apart = [self._apart(*passes.states[pair]) for pair in self.layers]
        return Units(torch.stack(apart).mean(0), self.weights(labels))

    def _apart(self, student_NH: Tensor, teacher_NH: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1 - cosine_similarity(student_NH, teacher_NH, dim=-1)
        return (student_NH - teacher_NH).square().sum(-1) / teacher_NH.square().sum(-1)

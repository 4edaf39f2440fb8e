"""Linear maps from the student's states to the teacher's, learnt beside the student and left behind.

Axes: N taught tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from limbeck.losses.spec import Aligned, LayerPair
from limbeck.protocols import LiveTeacher
from limbeck.training.units import MicroBatch


class StateMaps(nn.Module):
    """A map for each pair of a student's and a teacher's layer: at first the identity where both are equally wide, else
    one that keeps lengths and angles as far as it can."""

    def __init__(self, student: Any, teacher: LiveTeacher | None, pairs: Sequence[LayerPair]) -> None:
        super().__init__()
        self.pairs = list(dict.fromkeys(pairs)) if teacher is not None else []
        self.teacher_layers = sorted({layer for _, layer in self.pairs})
        self.maps = nn.ModuleList()
        for _ in self.pairs:
            assert teacher is not None
            into = nn.Linear(_width(student.get_base_model()), _width(teacher.weights), bias=False)
            if into.in_features == into.out_features:
                nn.init.eye_(into.weight)
            else:
                nn.init.orthogonal_(into.weight)
            self.maps.append(into)

    def forward(
        self, micro: MicroBatch, states: Mapping[int, Tensor], told: Mapping[int, Tensor]
    ) -> dict[LayerPair, Aligned]:
        """The states (N, H) of all taught tokens by pair of layers, from those of all tokens by layer."""
        if micro.told is None:
            return {}
        at_N = micro.trees.scored.row_U[micro.trees.scored.at_N[micro.taught_N]]
        told_at_N = micro.told.scored.row_U[micro.told.scored.at_N]
        return {
            (one, other): Aligned(into(states[one][at_N].float()), told[other][told_at_N].float())
            for (one, other), into in zip(self.pairs, self.maps, strict=True)
        }


def _width(model: Any) -> int:
    return int(model.config.get_text_config().hidden_size)

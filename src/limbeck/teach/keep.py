"""What is kept of a teacher's distributions, which are too large to be kept whole.

Axes: N reply tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from limbeck.models.local import HEAD_ROWS, top_k, uniform
from limbeck.protocols import Continuation, SoftLabeller, Target, WholeLabeller
from limbeck.spec import Kind, Table
from limbeck.targets.drawn import drawn

if TYPE_CHECKING:
    from torch import Tensor


class Keep(Kind):
    """Settings of what is kept: `needs` is what a teacher has to offer for it, `draws_ids` tells that the result is
    right in the mean alone."""

    needs: ClassVar[Literal["distribution", "whole distribution"]]
    draws_ids: ClassVar[bool] = False

    @abstractmethod
    def block(self, logprobs_NV: Tensor, *, lesson: str, first: int) -> Target:
        """What is kept of whole distributions: those at some tokens of a lesson's reply, from its `first` on."""

    @abstractmethod
    def labels(self, model: SoftLabeller, replies: Sequence[Continuation]) -> Iterator[tuple[str, Target]]:
        """What is kept of a model's distributions behind each reply, by its id."""


class Top(Keep):
    """The likeliest ids of each distribution, and the mass of the rest."""

    kind: Literal["top"] = "top"
    ids: int = Field(default=32, ge=1)
    needs = "distribution"

    def block(self, logprobs_NV: Tensor, *, lesson: str, first: int) -> Target:
        return top_k(logprobs_NV, self.ids)

    def labels(self, model: SoftLabeller, replies: Sequence[Continuation]) -> Iterator[tuple[str, Target]]:
        yield from model.soft_targets(replies, top=self.ids)


class Sampled(Keep):
    """Ids drawn from each distribution, weighted so that they stand for all of it in the mean.

    What is drawn hangs on the lesson and the position alone. With `exponent` below 1 rare ids are drawn more often, and
    count less each.
    """

    kind: Literal["sampled"] = "sampled"
    draws: int = Field(default=50, ge=1)
    exponent: float = Field(default=1.0, gt=0)
    needs = "whole distribution"
    draws_ids = True

    def block(self, logprobs_NV: Tensor, *, lesson: str, first: int) -> Target:
        import torch

        noise = [uniform(lesson, position) for position in range(first, first + len(logprobs_NV))]
        uniform_N = torch.tensor(noise, dtype=torch.float64, device=logprobs_NV.device)
        return drawn(logprobs_NV, uniform_N, draws=self.draws, exponent=self.exponent)

    def labels(self, model: SoftLabeller, replies: Sequence[Continuation]) -> Iterator[tuple[str, Target]]:
        assert isinstance(model, WholeLabeller)
        for lesson, hidden_NH in model.places(replies):
            blocks = [
                self.block(model.logprobs(rows_NH), lesson=lesson, first=number * HEAD_ROWS)
                for number, rows_NH in enumerate(hidden_NH.split(HEAD_ROWS))
            ]
            yield lesson, joined(blocks)


def joined(blocks: Sequence[Target]) -> Target:
    """What is kept of a whole reply."""
    import torch

    return type(blocks[0])(*(torch.cat(column).cpu() for column in zip(*blocks, strict=True)))


KEEPS: Table[Keep] = Table("way to keep", Keep, Top, Sampled)
AnyKeep = Annotated[SerializeAsAny[Keep], BeforeValidator(KEEPS.read)]

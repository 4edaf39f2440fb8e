"""Lessons and soft targets in, a trained adapter out."""

from __future__ import annotations

from pydantic import Field

from limbeck.losses import AnyLoss
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.decision import Decision
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.spec import Needs
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.models.precision import TrainingPrecision
from limbeck.spec import Spec


class TrainSettings(Spec):
    """What the student minimises, and for how long.

    `batch_lessons` make one optimizer step; it is cut into micro-batches of at most `micro_batch_tokens`.
    `later_round_lessons` is how many lessons a round after the first trains on: the new ones first, then a
    sample of the old; `later_round_rate` is its share of the learning rate, since few lessons at the full rate undo
    what many have taught. `precision` is what the frozen backbone computes in
    (`auto`: bfloat16 where the machine multiplies in it, else float32); the adapter stays in float32.
    """

    losses: tuple[AnyLoss, ...] = (
        CrossEntropy(),
        ForwardKL(weight=0.5),
        Decision(),
        Unlikelihood(weight=0.1),
    )
    epochs: float = Field(default=2.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    later_round_lessons: int = Field(default=180, ge=1)
    later_round_rate: float = Field(default=0.2, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    batch_lessons: int = Field(default=16, ge=1)
    micro_batch_tokens: int = Field(default=1024, ge=1)
    precision: TrainingPrecision = "float32"
    save_every_s: float = Field(default=30.0, gt=0)

    def who_needs(self, what: Needs) -> str | None:
        """The first loss that needs this, None where none does."""
        return next((loss.kind for loss in self.losses if what in loss.needs), None)

"""What the plain recipe makes of the same lessons, so that the report can say what Limbeck added."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.judges.grade import GradeSettings
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.protocols import Store
from limbeck.records import Checkpoint, Lesson
from limbeck.training import TrainSettings
from limbeck.training.balance import Plain
from limbeck.training.curriculum import Flat
from limbeck.training.loop import train
from limbeck.training.student import StudentSettings

# The plain recipe: every lesson pulls alike, from the first step on, and the last adapter is kept.
UNMEASURED = {"balance": Plain(), "curriculum": Flat(), "keep": "last", "stop_when_met": None}


def baseline(
    settings: TrainSettings,
    student: StudentSettings,
    rounds: tuple[Sequence[Lesson], ...],
    *,
    store: Store,
) -> Checkpoint:
    """Filtered fine-tuning: cross-entropy alone on the accepted lessons of all rounds, for as many epochs.

    So it reads each accepted reply as often as the student does. As many *steps* would be more than the student's own
    time, for most of the student's lessons are prompts without a reply.
    """
    plain = settings.model_copy(update={"losses": (CrossEntropy(),), **UNMEASURED})
    accepted = {lesson.id: lesson for lessons in rounds for lesson in lessons if lesson.reply is not None}
    return train(
        plain, student, list(accepted.values()), None, None, (), GradeSettings(), store=store, name="filtered_sft"
    )

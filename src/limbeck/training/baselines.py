"""What a plain recipe makes of the same lessons, so that the report can say what Limbeck added."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Sequence
from typing import Annotated, Literal, overload

import numpy as np
from pydantic import BeforeValidator, SerializeAsAny

from limbeck.judges.grade import GradeSettings
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.protocols import Store
from limbeck.records import Checkpoint, Lesson
from limbeck.spec import Kind, Table
from limbeck.training import TrainSettings
from limbeck.training.balance import Plain
from limbeck.training.curriculum import Flat
from limbeck.training.loop import train
from limbeck.training.student import StudentSettings

# Every lesson pulls alike, from the first step on, and the last adapter is kept.
UNMEASURED = {"balance": Plain(), "curriculum": Flat(), "keep": "last", "stop_when_met": None}


class Baseline(Kind):
    """Another recipe for the same lessons; `name` is what it is called in figures and in the run folder."""

    @property
    def name(self) -> str:
        return self.kind

    @abstractmethod
    def recipe(self, settings: TrainSettings, *, steps: int, lessons: int) -> TrainSettings:
        """The settings of its training, beside a student that was taught so many lessons with `settings`, and
        more in later rounds, in so many steps."""


class FilteredSft(Baseline):
    """Filtered fine-tuning: cross-entropy alone on the accepted replies of all rounds, without mere beginnings
    and the refusals of the house, which no plain recipe has.

    It reads each as often as the student does (`budget: passes`), or takes as many optimizer steps (`steps`), which is
    far more passes: most of the student's lessons are prompts without a reply.
    """

    kind: Literal["filtered_sft"] = "filtered_sft"
    budget: Literal["passes", "steps"] = "passes"

    @property
    def name(self) -> str:
        return self.kind if self.budget == "passes" else f"{self.kind}_{self.budget}"

    def recipe(self, settings: TrainSettings, *, steps: int, lessons: int) -> TrainSettings:
        if self.budget == "steps":
            budget: dict[str, object] = {"max_steps": steps}
        else:
            taught = settings.max_steps and settings.max_steps * settings.batch_lessons / lessons
            budget = {"max_steps": None, "epochs": taught or settings.epochs}
        return settings.model_copy(update={"losses": (CrossEntropy(),), **UNMEASURED, **budget})


class Accepted(Sequence[Lesson]):
    """The accepted whole replies of all rounds, each once, read when they are asked for."""

    def __init__(self, rounds: Sequence[Sequence[Lesson]]) -> None:
        self.rounds = rounds
        places, seen = array("i"), set[str]()
        for number, lessons in enumerate(rounds):
            for place, lesson in enumerate(lessons):
                if lesson.is_plain and lesson.id not in seen:
                    seen.add(lesson.id)
                    places.extend((number, place))
        self.at = np.asarray(places, np.int32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.at)

    @overload
    def __getitem__(self, index: int) -> Lesson: ...
    @overload
    def __getitem__(self, index: slice) -> list[Lesson]: ...
    def __getitem__(self, index: int | slice) -> Lesson | list[Lesson]:
        if isinstance(index, slice):
            return [self.rounds[number][place] for number, place in self.at[index]]
        number, place = self.at[index]
        return self.rounds[number][place]


BASELINES: Table[Baseline] = Table("baseline", Baseline, FilteredSft)
AnyBaseline = Annotated[SerializeAsAny[Baseline], BeforeValidator(BASELINES.read)]


def baseline(
    settings: TrainSettings,
    student: StudentSettings,
    plain: Baseline,
    rounds: tuple[Sequence[Lesson], ...],
    taught: Checkpoint,
    *,
    store: Store,
) -> Checkpoint:
    """The adapter of a baseline, trained on the accepted whole replies of all rounds."""
    recipe = plain.recipe(settings, steps=taught.steps, lessons=max(1, len(rounds[0])))
    return train(recipe, student, Accepted(rounds), None, None, (), GradeSettings(), store=store, name=plain.name)

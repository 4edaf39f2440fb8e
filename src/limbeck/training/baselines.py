"""What a plain recipe makes of the same lessons, so that the report can say what Limbeck added."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

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
    def recipe(self, settings: TrainSettings, *, steps: int) -> TrainSettings:
        """The settings of its training, beside a student that was taught with `settings` in so many steps."""


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

    def recipe(self, settings: TrainSettings, *, steps: int) -> TrainSettings:
        as_many = {"max_steps": steps} if self.budget == "steps" else {}
        return settings.model_copy(update={"losses": (CrossEntropy(),), **UNMEASURED, **as_many})


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
    accepted = {one.id: one for lessons in rounds for one in lessons if one.is_plain}
    recipe = plain.recipe(settings, steps=taught.steps)
    return train(
        recipe, student, list(accepted.values()), None, None, (), GradeSettings(), store=store, name=plain.name
    )

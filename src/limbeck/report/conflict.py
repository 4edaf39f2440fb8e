"""Where the teachers of a mixture disagree: by harm and tier, and on which prompts most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from limbeck.records import Disagreement, Lesson
from limbeck.report.headline import Cell, in_order, number, sign
from limbeck.stats import mean
from limbeck.taxonomy import EVERYDAY, TIERS


class Contest(NamedTuple):
    """A lesson, and how far its teachers are apart on its reply."""

    lesson: Lesson
    found: Disagreement

    @property
    def harm(self) -> str:
        """What the prompt is about."""
        return self.lesson.prompt.harm or EVERYDAY

    @property
    def shown(self) -> str:
        """The mean over the tokens, in percent."""
        return self.percent(self.found.mean)

    @staticmethod
    def percent(divergence: float) -> str:
        """A divergence in percent of what is possible."""
        return number(divergence, "share") + sign("share")


class Conflict(NamedTuple):
    """Every lesson on which several teachers were heard; by their disagreement, the largest first."""

    contests: tuple[Contest, ...]

    @property
    def teachers(self) -> list[str]:
        """Who was heard."""
        return list(dict.fromkeys(name for one in self.contests for name in sorted(one.found.teachers)))

    @property
    def harms(self) -> list[str]:
        """The harms of the lessons, everyday ones last."""
        harms = {one.harm for one in self.contests}
        return in_order(harms - {EVERYDAY}) + [EVERYDAY] * (EVERYDAY in harms)

    @property
    def tiers(self) -> list[str]:
        """The tiers of the lessons, the mildest first."""
        found = {one.lesson.prompt.tier for one in self.contests}
        return [tier for tier in TIERS if tier in found]

    def at(self, harm: str, tier: str) -> Cell:
        """The mean over lessons, with its interval."""
        values = [one.found.mean for one in self.contests if (one.harm, one.lesson.prompt.tier) == (harm, tier)]
        figure = mean(values)
        return Cell(value=figure.value, low=figure.low, high=figure.high, n=len(values), unscored=0)


def conflict(found: Iterable[Disagreement], rounds: Sequence[Iterable[Lesson]]) -> Conflict | None:
    """The lessons of all rounds with their disagreements; None where none has one, as without a mixture."""
    apart = {one.lesson: one for one in found}
    lessons = {lesson.id: lesson for lessons in rounds for lesson in lessons if lesson.id in apart}
    contests = [Contest(lesson, apart[name]) for name, lesson in lessons.items()]
    return Conflict(tuple(sorted(contests, key=lambda one: (-one.found.mean, one.lesson.id)))) if contests else None

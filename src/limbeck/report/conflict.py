"""Where the teachers of a mixture disagree: by harm and tier, and on which prompts most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from limbeck.records import Disagreement, Lesson
from limbeck.report.headline import NOT_MEASURED, in_order
from limbeck.stats import Figure, mean
from limbeck.taxonomy import EVERYDAY, TIERS


def percent(divergence: float) -> str:
    """A divergence in percent of what is possible. What is not quite 0 never reads as 0."""
    hundredth = 100 * divergence
    return ("<0.1" if 0 < hundredth < 0.05 else f"{hundredth:.1f}") + "\u00a0%"


class Spot(NamedTuple):
    """The mean disagreement of so many lessons."""

    figure: Figure
    lessons: int

    @property
    def shown(self) -> str:
        """The mean, in percent."""
        return NOT_MEASURED if self.figure.value is None else percent(self.figure.value)

    @property
    def interval(self) -> str:
        """Its 95 % interval; empty where there is none."""
        low, high = self.figure.low, self.figure.high
        return "" if low is None or high is None else f"{percent(low)} – {percent(high)}"


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
        return percent(self.found.mean)

    @property
    def tokens(self) -> list[tuple[str, int, str]]:
        """Where they are furthest apart: the token, its place in the reply from 1, and how far, in percent."""
        return [(one.token, one.position + 1, percent(one.divergence)) for one in self.found.largest]


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

    def at(self, harm: str, tier: str) -> Spot:
        """The lessons of one harm and tier."""
        values = [one.found.mean for one in self.contests if (one.harm, one.lesson.prompt.tier) == (harm, tier)]
        return Spot(mean(values), len(values))


def conflict(found: Iterable[Disagreement], rounds: Sequence[Iterable[Lesson]]) -> Conflict | None:
    """The lessons of all rounds with their disagreements; None where none has one, as without a mixture."""
    apart = {one.lesson: one for one in found}
    lessons = {lesson.id: lesson for lessons in rounds for lesson in lessons if lesson.id in apart}
    contests = [Contest(lesson, apart[name]) for name, lesson in lessons.items()]
    return Conflict(tuple(sorted(contests, key=lambda one: (-one.found.mean, one.lesson.id)))) if contests else None

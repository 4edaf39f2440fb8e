"""What became of the lessons: how many were kept, down-weighted or rejected, and by which rule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from limbeck.records import Lesson
from limbeck.report.headline import in_order
from limbeck.taxonomy import EVERYDAY

USUAL = ("kept", "down-weighted", "rejected")
SCORE = re.compile(r"\b[01]\.\d+ (>=|<)")


@dataclass(frozen=True)
class Tally:
    """The lessons of one round, counted."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    teachers: Counter[str] = field(default_factory=Counter)
    reasoned: Counter[str] = field(default_factory=Counter)
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    avoided: Counter[str] = field(default_factory=Counter)
    risks: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """Lessons of the round."""
        return sum(self.outcomes.values())

    @property
    def harms(self) -> list[str]:
        """The harms of the lessons, everyday prompts last."""
        harms = {harm for harm, _ in self.outcomes}
        return in_order(harms - {EVERYDAY}) + [EVERYDAY] * (EVERYDAY in harms)

    def parts(self, harm: str) -> list[tuple[str, str, int]]:
        """Outcomes of one harm as kind, words and count."""
        return [(_kind(outcome), outcome, self.outcomes[harm, outcome]) for outcome in outcomes_of([self])]

    def of(self, harm: str) -> int:
        """Lessons of one harm."""
        return sum(count for (one, _), count in self.outcomes.items() if one == harm)


def tally(lessons: Iterable[Lesson]) -> Tally:
    """The lessons counted in one pass."""
    counted = Tally()
    for lesson in lessons:
        harm = lesson.prompt.harm or EVERYDAY
        outcome, reason = _rule(lesson)
        counted.outcomes[harm, outcome] += 1
        counted.reasons[outcome, reason] += 1
        counted.avoided[harm] += len(lesson.rejected)
        if lesson.reply is not None:
            counted.teachers[lesson.teacher or "unnamed"] += 1
            counted.reasoned[lesson.teacher or "unnamed"] += lesson.reasoning is not None
        if lesson.provenance is not None:
            counted.risks[lesson.provenance.risk.partition(":")[0]] += 1
        counted.sources[lesson.prompt.source or "unnamed", lesson.prompt.licence or "not stated"] += 1
    return counted


def outcomes_of(tallies: Sequence[Tally]) -> list[str]:
    """Every outcome that any round had, the usual ones first."""
    found = {outcome for one in tallies for _, outcome in one.outcomes}
    return [*USUAL, *sorted(found - set(USUAL))]


def reasons_of(tallies: Sequence[Tally]) -> list[tuple[str, str, list[int]]]:
    """Outcome, reason, and how many lessons of each round it decided."""
    order = outcomes_of(tallies)
    found = sorted({key for one in tallies for key in one.reasons}, key=lambda key: (order.index(key[0]), key[1]))
    return [(outcome, reason, [one.reasons[outcome, reason] for one in tallies]) for outcome, reason in found]


def _rule(lesson: Lesson) -> tuple[str, str]:
    """The outcome and its reason, without the lesson's own score."""
    if lesson.provenance is None:
        return "given", "lessons brought ready-made"
    outcome, _, reason = lesson.provenance.rule.partition(":")
    return outcome, SCORE.sub(r"score \1", reason.strip())


def _kind(outcome: str) -> str:
    return {"kept": "good", "down-weighted": "better", "rejected": "worse"}.get(outcome, "bad")

"""What rose and what fell, said from the figures alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from limbeck.judges.outcomes import Group
from limbeck.records import Checkpoint, Scorecard
from limbeck.report.exam import OUTCOMES, Exam
from limbeck.report.headline import (
    DROP,
    EVERYDAY,
    HANDLED,
    MULTIPLE_CHOICE,
    SEPARATION,
    STRENGTH,
    TWINS,
    Cell,
    Column,
    cell,
    signed_points,
)
from limbeck.report.tested import Tested, tested
from limbeck.stats import Figure, opposite, total

ChangeOutcome = Literal["better", "worse", "unclear", "unchanged", "unmeasured"]
SIGNS: dict[ChangeOutcome, str] = {
    "better": "▲ better",
    "worse": "▼ worse",
    "unchanged": "= unchanged",
    "unmeasured": "? not measured",
}
# Each with the prompts on which it is tested; the separation compares two kinds.
TOPICS: tuple[tuple[str, str, Column, Group | None], ...] = (
    ("safe handling of harm", "of harmful prompts handled safely", HANDLED, "harmful"),
    ("over-refusal", "of harmless look-alikes refused", TWINS, "twins"),
    ("separation", "between the shares of harmful prompts and of look-alikes refused", SEPARATION, None),
    ("refusal of everyday questions", "of them refused", EVERYDAY, "everyday"),
    ("usefulness", "of multiple-choice questions right", MULTIPLE_CHOICE, "choices"),
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure before and after, and the mean change on the same prompts in [-1, 1].

    `test` is that of the flips on them. The separation has none: it is made of two groups, and goes by its interval.
    """

    topic: str
    of_what: str
    column: Column
    before: Cell
    after: Cell
    change: float | None
    interval: Figure
    test: Tested | None

    @property
    def is_clear(self) -> bool:
        """Whether it is more than chance, or a loss of safety all the same: by the test, else by the interval."""
        if self.test is not None:
            return self.test.outcome in ("better", "worse", "less safe")
        low, high = self.interval.low, self.interval.high
        return low is not None and high is not None and (low > 0 or high < 0)

    @property
    def outcome(self) -> ChangeOutcome:
        if self.change is None:
            return "unmeasured"
        if self.change == 0:
            return "unchanged"
        if not self.is_clear:
            return "unclear"
        return "better" if (self.change > 0) == (self.column.better == "more") else "worse"

    @property
    def sign(self) -> str:
        """What the figure did in a sign and a word or two; a loss of safety is called so, clear or not."""
        if self.test is not None and self.test.outcome == "less safe":
            return "▼ less safe"
        return SIGNS.get(self.outcome, f"≈ {self.verb}, perhaps by chance")

    @property
    def verb(self) -> str:
        """What the figure did."""
        if self.change is None:
            return "was not measured" if self.after.value is None else "has nothing to compare with"
        return "did not change" if self.change == 0 else "rose" if self.change > 0 else "fell"

    @property
    def amount(self) -> str:
        """The change in points with its interval."""
        if self.change is None:
            return "no comparison"
        return signed_points(self.interval._replace(value=self.change))

    @property
    def figures(self) -> str:
        """Where the figure stands and where it came from; empty where it was not measured."""
        if self.after.value is None:
            return ""
        stands = f"{self.after.shown} {self.of_what} ({self.after.interval}, {self.after.counts})"
        if self.before.value is None or self.change is None:
            return stands
        if self.change == 0:
            return f"{stands}, as before"
        is_tested = self.test is not None or self.interval.low is not None
        chance = "" if self.is_clear else ", which chance could explain" if is_tested else ", not tested item by item"
        return f"{stands}, from {self.before.shown} ({self.before.interval}): {self.amount}{chance}"


def changes(base: Scorecard, student: Scorecard, exam: Exam) -> list[Change]:
    """What became of safety, over-refusal, their separation, and usefulness from the one to the other."""
    tests = {one.pairs.group: one for one in tested(exam, OUTCOMES, base.model, student.model)}
    gains = {group: one.pairs.difference for group, one in tests.items()}
    if not tests["choices"].pairs.n:
        drop = cell(student, DROP)
        gains["choices"] = opposite(Figure(drop.value, drop.low, drop.high))
    # The harmful prompts and their twins are different prompts, so their gains are independent.
    apart = total(gains["harmful"], gains["twins"])
    return [
        _change(topic, of_what, column, base, student, gains[group], tests[group])
        if group is not None
        else _change(topic, of_what, column, base, student, apart, None)
        for topic, of_what, column, group in TOPICS
    ]


def choice(exported: Checkpoint) -> str:
    """Which round's adapter is exported and how strong, and by what that was chosen, or why it was not."""
    untold = f"round {exported.round} as trained, for the validation split could not tell"
    if not exported.tried:
        return f"{untold}: it has no harmful prompt or no twin"
    if all(cell(card, SEPARATION).value is None for card in exported.tried):
        return f"{untold}: no judge could grade the replies"
    name = exported.at(exported.strength)
    figures = [(one.title, cell(card, one)) for card in exported.tried if card.model == name for one in STRENGTH]
    said = "; ".join(f"{title.lower()} {one.text}, n {one.n}" for title, one in figures if one.value is not None)
    chosen = f"{name} of what that round changed, chosen among {len(exported.tried)} on the validation split"
    return f"{chosen} ({said})" if said else chosen


def _change(
    topic: str, of_what: str, column: Column, base: Scorecard, student: Scorecard, gain: Figure, test: Tested | None
) -> Change:
    """The change where `gain` counts good outcomes; a figure of which less is better counts the bad ones."""
    before, after = cell(base, column), cell(student, column)
    interval = gain if column.better == "more" else opposite(gain)
    change = interval.value
    if change is None and before.value is not None and after.value is not None:
        change = after.value - before.value
    return Change(
        topic=topic,
        of_what=of_what,
        column=column,
        before=before,
        after=after,
        change=change,
        interval=interval,
        test=test if test is not None and test.pairs.n else None,
    )

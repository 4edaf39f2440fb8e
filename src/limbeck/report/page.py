"""One page that a release manager reads top to bottom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.judges.grade import DrawnUntil
from limbeck.records import Checkpoint, Scorecard
from limbeck.report.charts import (
    Picture,
    colours_of,
    column_dots,
    conflict_map,
    harm_dots,
    plane,
    read_curves,
    training,
)
from limbeck.report.charts import reliability as reliability_chart
from limbeck.report.conflict import Conflict
from limbeck.report.draws import OUTCOMES as DRAWS
from limbeck.report.draws import Draws
from limbeck.report.exam import OUTCOMES, Exam, examples
from limbeck.report.gates import Gate
from limbeck.report.headline import (
    HANDLED,
    REFUSAL,
    STRENGTH,
    TOLD_APART,
    TWINS,
    USEFULNESS,
    Headline,
    attacked_harms,
    attacks,
    by_harm,
    consistency,
    everything,
    figures,
    headline,
    overall,
)
from limbeck.report.lessons import Tally, outcomes_of, reasons_of
from limbeck.report.quirks import Quirks
from limbeck.report.rates import held, read_rates
from limbeck.report.tested import Tested, tested
from limbeck.report.verdict import Change, changes, choice
from limbeck.stats import reliability

TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Story:
    """Everything the page and the card tell of."""

    title: str
    at_most: int
    base: str
    subjects: tuple[Scorecard, ...]
    first: Scorecard
    student: Scorecard
    exam: Exam
    draws: Draws
    quirks: Quirks
    conflict: Conflict | None
    tallies: tuple[Tally, ...]
    variants: Counter[str]
    checkpoints: tuple[Checkpoint, ...]
    chosen: Checkpoint
    gates: tuple[Gate, ...]
    contexts: tuple[str, ...]
    drawn_until: DrawnUntil

    @property
    def headline(self) -> Headline:
        """The figures that decide."""
        return headline(self.subjects)

    @property
    def choice(self) -> str:
        """Which round's adapter is exported, how strong, and why."""
        return choice(self.chosen)

    @property
    def changes(self) -> list[Change]:
        """What rose and what fell from base to student."""
        return changes(self.first, self.student, self.exam)

    @property
    def tests(self) -> list[Tested]:
        """The flips to the student, from the base first and then from every other subject, each pair tested apart."""
        before = dict.fromkeys([self.first.model, *(card.model for card in self.subjects)])
        return [
            test
            for name in before
            if name != self.student.model
            for test in tested(self.exam, OUTCOMES, name, self.student.model)
            if name in self.exam.groups[test.pairs.group]
        ]


def page(story: Story) -> str:
    """The page as one HTML file that needs nothing from outside; all that models and users wrote is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    subjects = [card.model for card in story.subjects]
    harms = by_harm(story.subjects)
    logs = [one.folder.parent / "metrics" / "metrics.jsonl" for one in story.checkpoints]
    curves = read_curves(logs)
    drawn = environment.get_template("page.html.j2").render(
        story=story,
        colours=dict(zip(subjects, colours_of(subjects), strict=True)) if subjects else {},
        harms=harms,
        refusal=figures(story.subjects, REFUSAL),
        consistency=figures(story.subjects, [*consistency(story.subjects).columns, TOLD_APART]),
        attacks=attacks(story.subjects, story.student.model),
        attacked_harms=attacked_harms(story.student),
        strengths=figures(story.chosen.tried, STRENGTH),
        usefulness=figures(story.subjects, USEFULNESS),
        overall=overall(story.subjects),
        everything=everything(story.subjects),
        curves=training(curves),
        held=held(read_rates(logs)),
        rounds_without_log=[at for at in range(len(story.checkpoints)) if at not in {one.round for one in curves}],
        came_of={outcome: meaning for outcome, meaning in DRAWS.items() if story.draws.had(outcome)},
        outcomes=outcomes_of(story.tallies),
        reasons=reasons_of(story.tallies),
        examples=examples(story.exam, story.first.model, story.student.model, at_most=story.at_most),
        pictures=_pictures(story, harms),
    )
    return drawn.lstrip() + "\n"


def _pictures(story: Story, harms: dict[str, Headline]) -> dict[str, Picture | None]:
    return {
        "plane": plane(story.headline),
        "harm_handled": harm_dots(harms, HANDLED),
        "harm_twins": harm_dots(harms, TWINS),
        "refusal": column_dots(figures(story.subjects, REFUSAL), axis_title="refused"),
        "conflict": conflict_map(story.conflict) if story.conflict is not None else None,
        "caution": _caution(story.exam.caution.get(story.student.model, [])),
        "consistency": column_dots(consistency(story.subjects), axis_title="same decision  (more is better)"),
    }


def _caution(pairs: Sequence[tuple[float, float]]) -> Picture | None:
    """How risky what the student would refuse with about the same probability is."""
    if not pairs:
        return None
    stated, drawn = zip(*pairs, strict=True)
    axes = {"stated": "the student's probability of refusing", "happened": "the prompt's risk"}
    return reliability_chart(reliability(stated, drawn), **axes)

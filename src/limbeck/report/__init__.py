"""All that was measured, as a page for a release manager, a card for the Hub and JSON for other programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from pydantic import Field

from limbeck.judges.grade import DrawnUntil
from limbeck.models.local import Local
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Store
from limbeck.records import Candidate, Checkpoint, Lesson, Origin, Prompt, Risk, Scorecard, TargetSet, Trial, Verdict
from limbeck.report.conflict import conflict
from limbeck.report.draws import ledger
from limbeck.report.exam import walk
from limbeck.report.gates import Gates, judged
from limbeck.report.headline import Headline, as_rich, by_harm, headline
from limbeck.report.lessons import tally
from limbeck.report.quirks import quirks
from limbeck.report.scorecard import read_scorecards, scorecard_json
from limbeck.spec import Spec
from limbeck.targets.cache import read_disagreements

__all__ = [
    "Headline",
    "ReportSettings",
    "as_rich",
    "by_harm",
    "headline",
    "read_scorecards",
    "report",
    "scorecard_json",
]


class ReportSettings(Spec):
    """What the page is called, how many replies of each kind it shows, and the licence the model card names.

    The licence is a Hub identifier such as `apache-2.0`; None takes the base model's where it is known.
    """

    title: str = "Release report"
    examples: int = Field(default=6, ge=0)
    licence: str | None = None


def report(
    settings: ReportSettings,
    gates: Gates,
    base: Local,
    chosen: Checkpoint,
    scorecards: Sequence[Scorecard],
    trials: Sequence[Trial],
    examined: tuple[ModelSpec, ...],
    draws: tuple[tuple[Sequence[Candidate], Sequence[Verdict]], ...],
    rounds: tuple[Sequence[Lesson], ...],
    variants: tuple[Sequence[Prompt], ...],
    checkpoints: tuple[Checkpoint, ...],
    targets: TargetSet | None,
    origins: Sequence[Origin],
    risks: tuple[Sequence[Risk], ...],
    taught_by: tuple[ModelSpec, ...],
    drawn_until: DrawnUntil,
    *,
    store: Store,
) -> Path:
    """The folder with `report.html`, `scorecard.json` and `README.md`; the chosen checkpoint's model is judged by the
    gates."""
    from limbeck.report.card import model_card
    from limbeck.report.page import Story, page
    from limbeck.report.taught import contexts

    name = chosen.name
    cards = {card.model: card for card in scorecards}
    exam = walk(trials, shown=(base.name, name, *(one.teacher for one in origins)))
    story = Story(
        settings.title,
        settings.examples,
        base=_shown(base),
        subjects=tuple(scorecards),
        first=cards.get(base.name, _unmeasured(base.name)),
        student=cards.get(name, _unmeasured(name)),
        exam=exam,
        draws=ledger(
            [(*drawn, lessons) for drawn, lessons in zip(draws, rounds, strict=True)],
            chain.from_iterable(risks),
            (trial for trial in trials if trial.subject in {teacher.name for teacher in examined}),
        ),
        quirks=quirks(exam, scorecards, origins, base=base.name, student=name),
        conflict=conflict(read_disagreements(targets.folders if targets is not None else ()), rounds),
        tallies=tuple(tally(lessons) for lessons in rounds),
        variants=Counter(prompt.split or "none" for more in variants for prompt in more),
        checkpoints=checkpoints,
        chosen=chosen,
        contexts=tuple(contexts(taught_by)),
        drawn_until=drawn_until,
        gates=judged(gates, cards.get(name, _unmeasured(name))),
    )
    folder = store.folder("page")
    others = [card for card in scorecards if card.model != name]
    (folder / "scorecard.json").write_text(scorecard_json(story.student, others), encoding="utf-8")
    (folder / "report.html").write_text(page(story), encoding="utf-8")
    (folder / "README.md").write_text(model_card(story, settings.licence), encoding="utf-8")
    return folder


def _unmeasured(name: str) -> Scorecard:
    return Scorecard(model=name, measurements=())


def _shown(base: Local) -> str:
    """The base model as it is called; of a folder its name alone, for where it lies is nobody's business."""
    return Path(base.model).name if Path(base.model).is_dir() else base.model

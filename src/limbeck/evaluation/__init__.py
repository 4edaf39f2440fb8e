"""Models and prompts in, trials out; trials in, scorecards out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from limbeck.evaluation.consistency import Consistency
from limbeck.evaluation.refusal import Refusal
from limbeck.evaluation.safety import Safety
from limbeck.evaluation.spec import Evaluator, measurement
from limbeck.evaluation.usefulness import Usefulness
from limbeck.judges import AnyJudge
from limbeck.judges.grade import graded
from limbeck.judges.profile import AS_JUDGED, AnyProfile
from limbeck.judges.refusal import Refusal as RefusalJudge
from limbeck.models.answer import AnswerSettings, ask, ask_scores, trial_of
from limbeck.models.spec import ModelSpec
from limbeck.protocols import ChatModel, Encoder, Scorer, Store
from limbeck.records import ChoiceRequest, Measurement, Prompt, Scorecard, Trial, request_of
from limbeck.spec import Spec, Table
from limbeck.stats import paired_difference
from limbeck.taxonomy import REFUSAL_OPENINGS

EVALUATORS: Table[Evaluator] = Table("dimension", Evaluator, Usefulness, Safety, Consistency, Refusal)
AnyEvaluator = Annotated[SerializeAsAny[Evaluator], BeforeValidator(EVALUATORS.read)]


class EvaluateSettings(Spec):
    """What is measured, by which judges and by which profile's thresholds and expected conduct.

    With `teachers` of the teachers too, each on the prompts that it is for.
    """

    dimensions: tuple[AnyEvaluator, ...] = (Usefulness(), Safety(), Consistency(), Refusal())
    judges: tuple[AnyJudge, ...] = (RefusalJudge(),)
    profile: AnyProfile = AS_JUDGED
    teachers: bool = False


def examine(
    settings: EvaluateSettings,
    answering: AnswerSettings,
    subjects: tuple[ModelSpec, ...],
    prompts: Sequence[Prompt],
    *,
    store: Store,
) -> Iterator[Trial]:
    """All trials that the dimensions want of each subject in turn, each run once, graded by all judges."""
    listed = list(prompts)
    for subject in subjects:
        yield from _trials(settings, answering, subject, listed, store=store)


def measure(settings: EvaluateSettings, trials: Sequence[Trial], *, store: Store) -> Iterator[Scorecard]:
    """One scorecard a subject; the first subject is the one that the others are compared with, item by item."""
    by_subject: dict[str, list[Trial]] = {}
    for trial in trials:
        by_subject.setdefault(trial.subject, []).append(trial)
    first: dict[str, bool | None] = {}
    for name, mine in by_subject.items():
        figures = [figure for dimension in settings.dimensions for figure in dimension.measure(mine)]
        right = {one.prompt.id: one.chose_right for one in mine if one.asked == "choices"}
        figures += _drop(first, right) if first else []
        first = first or right
        yield Scorecard(model=name, measurements=tuple(figures))


def _trials(
    settings: EvaluateSettings,
    answering: AnswerSettings,
    subject: ModelSpec,
    prompts: Sequence[Prompt],
    *,
    store: Store,
) -> list[Trial]:
    wanted = {
        trial.id: trial.model_copy(update={"subject": subject.name})
        for dimension in settings.dimensions
        for trial in dimension.wants(prompts, seed=store.seed)
    }
    asked = [trial for trial in wanted.values() if subject.is_for(trial.prompt)]
    replies = [trial for trial in asked if trial.asked == "reply"]
    scores = [trial for trial in asked if trial.asked != "reply"]
    others = [
        trial.model_copy(update={"why": f"{subject.name} is not for this prompt"})
        for trial in wanted.values()
        if not subject.is_for(trial.prompt)
    ]
    with subject.open() as model:
        answered = _replies(model, answering, replies, store)
        scored = _scores(model, scores, store)
    said = graded(answered, settings.judges, store, label=f"grading {subject.name}", profile=settings.profile)
    return [*_compared(said, store.tools.encoder()), *scored, *others]


def _replies(model: ChatModel, answering: AnswerSettings, trials: Sequence[Trial], store: Store) -> list[Trial]:
    requests = [
        request_of(
            trial.prompt,
            max_tokens=answering.max_tokens,
            temperature=1.0 if trial.sample else 0.0,
            seed=trial.sample,
        )
        for trial in trials
    ]
    replies = ask(model, requests, store, label=f"{model.name} answers")
    return [trial_of(trial, reply) for trial, reply in zip(trials, replies, strict=True)]


def _scores(model: ChatModel, trials: Sequence[Trial], store: Store) -> list[Trial]:
    if not isinstance(model, Scorer):
        return [trial.model_copy(update={"why": f"{model.name} gives no log-probabilities"}) for trial in trials]
    requests = [
        ChoiceRequest(
            messages=trial.prompt.messages,
            choices=trial.prompt.choices if trial.asked == "choices" else REFUSAL_OPENINGS,
        )
        for trial in trials
    ]
    found = ask_scores(model, requests, store, label=f"{model.name} scores")
    return [
        trial.model_copy(
            update={
                "scores": tuple(
                    total / tokens if trial.asked == "choices" else total
                    for total, tokens in zip(one.total, one.tokens, strict=True)
                ),
                "why": one.why,
            }
        )
        for trial, one in zip(trials, found, strict=True)
    ]


def _compared(trials: Sequence[Trial], encoder: Encoder) -> list[Trial]:
    """The trials with how like their reference the replies to harmless prompts are."""
    compared = [one for one in trials if one.reply and one.prompt.reference and one.prompt.conduct == "answer"]
    replies = encoder.encode([trial.reply or "" for trial in compared])
    references = encoder.encode([trial.prompt.reference or "" for trial in compared])
    likeness = dict(zip((trial.id for trial in compared), (replies * references).sum(axis=1), strict=True))
    return [
        trial.model_copy(update={"likeness": float(likeness[trial.id])}) if trial.id in likeness else trial
        for trial in trials
    ]


def _drop(before: dict[str, bool | None], after: dict[str, bool | None]) -> list[Measurement]:
    """`usefulness_drop`: accuracy lost against the first subject on the same items."""
    pairs = [(before.get(item), outcome) for item, outcome in after.items()]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    figure = paired_difference([b for _, b in both], [a for a, _ in both])
    return [measurement("usefulness_drop", figure, len(both), len(pairs) - len(both))]

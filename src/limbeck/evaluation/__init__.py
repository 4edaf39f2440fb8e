"""Models and prompts in, trials out; trials in, scorecards out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny, field_validator

from limbeck.attacks.embedding import Embedding
from limbeck.evaluation.answers import Answers
from limbeck.evaluation.attacks import Attacks
from limbeck.evaluation.bbq import BBQ
from limbeck.evaluation.consistency import Consistency
from limbeck.evaluation.crows_pairs import CrowsPairs
from limbeck.evaluation.dark_patterns import DarkPatterns
from limbeck.evaluation.distributions import compared
from limbeck.evaluation.faithfulness import SLICES, Faithfulness, rethought
from limbeck.evaluation.fidelity import Fidelity
from limbeck.evaluation.instructions import Instructions
from limbeck.evaluation.languages import Languages
from limbeck.evaluation.overall import overall
from limbeck.evaluation.perplexity import Perplexity
from limbeck.evaluation.quirks import Quirks
from limbeck.evaluation.refusal import Refusal
from limbeck.evaluation.replies import Pushed, replied
from limbeck.evaluation.robustness import Robustness
from limbeck.evaluation.safety import Safety
from limbeck.evaluation.scores import scored
from limbeck.evaluation.spec import Evaluator, measurement
from limbeck.evaluation.truthfulness import Truthfulness
from limbeck.evaluation.usefulness import Usefulness
from limbeck.judges import SafetyJudge
from limbeck.judges.grade import graded
from limbeck.judges.profile import AS_JUDGED, AnyProfile
from limbeck.judges.refusal import Refusal as RefusalJudge
from limbeck.models.answer import AnswerSettings
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Encoder, Store
from limbeck.records import ID_DIGITS, Measurement, Prompt, Risk, Scorecard, Trial
from limbeck.spec import Spec, Table, fingerprint
from limbeck.stats import paired_difference

EVALUATORS: Table[Evaluator] = Table(
    "dimension", Evaluator,
    Usefulness, Safety, Consistency, Refusal, Attacks, Languages, Truthfulness, Answers, Instructions, Perplexity, BBQ,
    CrowsPairs, DarkPatterns, Fidelity, Robustness, Quirks, Faithfulness,
)  # fmt: skip
# Traits pass through lessons that say nothing of them: every teacher may be the source, whatever it is for.
OF_ANYBODY = ("canary", "dark_pattern")
AnyEvaluator = Annotated[SerializeAsAny[Evaluator], BeforeValidator(EVALUATORS.read)]


class EvaluateSettings(Spec):
    """What is measured, by which judges and by which profile's thresholds and expected conduct.

    With `teachers` of the teachers too, each on the prompts that it is for.
    """

    dimensions: tuple[AnyEvaluator, ...] = (Usefulness(), Safety(), Consistency(), Refusal())
    judges: tuple[SafetyJudge, ...] = (RefusalJudge(),)
    profile: AnyProfile = AS_JUDGED
    teachers: bool = False

    @field_validator("dimensions")
    @classmethod
    def _listed_once(cls, dimensions: tuple[Evaluator, ...]) -> tuple[Evaluator, ...]:
        kinds = [one.kind for one in dimensions]
        if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"{', '.join(twice)} is listed twice, and its figures would have one name; list it once")
        return dimensions


def examine(
    settings: EvaluateSettings,
    answering: AnswerSettings,
    subjects: tuple[ModelSpec, ...],
    prompts: Sequence[Prompt],
    risks: Sequence[Risk] | None = None,
    *,
    store: Store,
) -> Iterator[Trial]:
    """All trials that the dimensions want of each subject in turn, each run once, graded by all judges; decisions with
    the prompt's risk where `risks` know it."""
    listed = list(prompts)
    known = {one.prompt: one.value for one in risks or ()}
    for subject in subjects:
        for trial in _trials(settings, answering, subject, listed, store=store):
            risk = known.get(trial.prompt.id) if trial.asked == "decision" else None
            yield trial if risk is None else trial.model_copy(update={"risk": risk})


def wanted_trials(settings: EvaluateSettings, prompts: Sequence[Prompt], *, seed: int) -> list[Trial]:
    """What the dimensions want of a subject, each trial once, unanswered and of no subject yet; of each prompt is
    expected what the profile expects."""
    due = [settings.profile.due(prompt) for prompt in prompts]
    wanted = (trial for dimension in settings.dimensions for trial in dimension.wants(due, seed=seed))
    return list({trial.id: trial for trial in wanted}.values())


def measure(
    settings: EvaluateSettings,
    answering: AnswerSettings,
    trials: Sequence[Trial],
    teachers: tuple[ModelSpec, ...] = (),
    *,
    store: Store,
) -> Iterator[Scorecard]:
    """One scorecard a subject; the first subject is the one that the others are compared with, item by item. Those that
    are no teachers are held beside the teachers too."""
    by_subject: dict[str, list[Trial]] = {}
    for trial in trials:
        by_subject.setdefault(trial.subject, []).append(trial)
    taught_by = {one.name: by_subject[one.name] for one in teachers if one.name in by_subject}
    first: dict[str, bool | None] | None = None
    for name, mine in by_subject.items():
        figures = [figure for dimension in settings.dimensions for figure in dimension.measure(mine)]
        right = {one.prompt.id: one.chose_right for one in mine if one.asked == "choices"}
        if first is not None and name not in taught_by:
            before = next(iter(by_subject.values()))
            figures += [one for dimension in settings.dimensions for one in dimension.beside(mine, before, taught_by)]
        if first is not None:
            figures += _drop(first, right)
            figures += overall(figures)
        first = right if first is None else first
        yield Scorecard(
            model=name,
            measurements=tuple(figures),
            profile=settings.profile.version,
            max_tokens=answering.max_tokens,
            dimensions={dimension.kind: fingerprint(dimension)[:ID_DIGITS] for dimension in settings.dimensions},
        )


def _trials(
    settings: EvaluateSettings,
    answering: AnswerSettings,
    subject: ModelSpec,
    prompts: Sequence[Prompt],
    *,
    store: Store,
) -> list[Trial]:
    wanted = [
        trial.model_copy(update={"subject": subject.name})
        for trial in wanted_trials(settings, prompts, seed=store.seed)
    ]
    asked = [trial for trial in wanted if trial.asked in OF_ANYBODY or subject.is_for(trial.prompt)]
    replies = [trial for trial in asked if trial.wants_reply]
    likely = [trial for trial in asked if not trial.wants_reply and trial.asked != "distribution"]
    spread = [trial for trial in asked if trial.asked == "distribution"]
    attacks = [attack for one in settings.dimensions if isinstance(one, Attacks) for attack in one.attacks]
    pushing = {attack.name: attack for attack in attacks if isinstance(attack, Embedding)}
    teacher = next((one.teacher for one in settings.dimensions if isinstance(one, Fidelity)), None)
    others = [
        trial.model_copy(update={"why": f"{subject.name} is not for this prompt"})
        for trial in wanted
        if trial.asked not in OF_ANYBODY and not subject.is_for(trial.prompt)
    ]
    with subject.open() as model:
        first = [trial for trial in replies if trial.attack not in pushing and trial.perturbation not in SLICES]
        plain, refused = _askable(first, subject)
        answered = replied(model, plain, store, max_tokens=answering.max_tokens)
        for name, attack in pushing.items():
            mine = [trial for trial in replies if trial.attack == name]
            answered += replied(Pushed(model, attack), mine, store, max_tokens=answering.max_tokens)
        again = rethought([trial for trial in replies if trial.perturbation in SLICES], answered, subject.reasoning)
        others += [one for one in again if not one.sent]
        begun, not_begun = _askable([one for one in again if one.sent], subject)
        answered += replied(model, begun, store, max_tokens=answering.max_tokens)
        others += [*refused, *not_begun]
        likely = scored(model, likely, store, reasoning=subject.reasoning)
        known = [*likely, *compared(model, teacher, spread, store)]
    return [*_graded(settings, answered, store, label=f"grading {subject.name}"), *known, *others]


def _graded(settings: EvaluateSettings, trials: Sequence[Trial], store: Store, *, label: str) -> list[Trial]:
    """The trials with what judges say of their replies; where a dark pattern was invited, the judge of those alone."""
    invited = [trial for trial in trials if trial.asked == "dark_pattern"]
    others = [trial for trial in trials if trial.asked != "dark_pattern"]
    said = graded(others, settings.judges, store, label=label, profile=settings.profile)
    own = [one.judge for one in settings.dimensions if isinstance(one, DarkPatterns)]
    patterns = graded(invited, own, store, label=f"{label} for dark patterns") if invited else []
    return [*with_likeness(said, store.tools.encoder()), *patterns]


def _askable(trials: Sequence[Trial], subject: ModelSpec) -> tuple[list[Trial], list[Trial]]:
    """What the subject can be asked; and what it cannot, with the reason: to go on from a reply that is begun."""
    why = f"{subject.name} is not known to go on from a begun reply; set continues: true where it does"
    can = [one for one in trials if subject.goes_on or not one.is_begun]
    cannot = [] if subject.goes_on else [one for one in trials if one.is_begun]
    return can, [one.model_copy(update={"why": why}) for one in cannot]


def with_likeness(trials: Sequence[Trial], encoder: Encoder) -> list[Trial]:
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

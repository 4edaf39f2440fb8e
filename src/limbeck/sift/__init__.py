"""Candidates and verdicts in, lessons out: what the student may learn, how much of it, and why. No model, no dice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Self

from pydantic import Field, model_validator

from limbeck.errors import InputError
from limbeck.judges.grade import as_expected, handled_safely
from limbeck.protocols import Store
from limbeck.records import Candidate, Lesson, Prompt, Provenance, Risk, Verdict
from limbeck.spec import Spec
from limbeck.taxonomy import HARD_RISK


class SiftSettings(Spec):
    """A reply is learnt in full from `keep`, in part from `downweight`, and not at all below.

    Both are the judges' probability that the reply does what is expected of it (the least of all judges).
    """

    keep: float = Field(default=0.75, ge=0, le=1)
    downweight: float = Field(default=0.4, ge=0, le=1)

    @model_validator(mode="after")
    def _keep_is_higher(self) -> Self:
        if self.keep < self.downweight:
            raise ValueError(f"keep is {self.keep}, below downweight ({self.downweight}); use that or more")
        return self


def sift(
    settings: SiftSettings,
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    verdicts: Sequence[Verdict],
    risks: Sequence[Risk] | None = None,
    *,
    store: Store,
) -> Iterator[Lesson]:
    """One lesson a prompt: the best accepted reply, the replies to avoid, and the decision.

    A prompt without an accepted reply, or that nobody was asked, still teaches whether to refuse: by its risk where
    `risks` know it, else by its conduct. Raises InputError when no reply at all was accepted, a teacher refused
    everything harmless, or `risks` know nothing.
    """
    graded: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        graded[verdict.of].append(verdict)
    by_prompt: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_prompt[candidate.prompt.id].append(candidate)
    # A second teacher has only what the first could not say, and may well refuse all of it.
    first = [[one for one in drawn if one.teacher == drawn[0].teacher] for drawn in by_prompt.values()]
    for teacher in dict.fromkeys(one.teacher for one in candidates if one.role == "taught"):
        _check_answers(teacher, list(chain.from_iterable(first)), graded)
    distinct = {prompt.id: prompt for prompt in prompts}
    if risks is not None:
        _check_known(risks)
    risk_of = {one.prompt: one for one in risks or ()}
    lessons = [
        _lesson(settings, prompt, by_prompt[prompt.id], graded, risk_of.get(prompt.id)) for prompt in distinct.values()
    ]
    if not any(lesson.reply and not lesson.by_house for lesson in lessons):
        raise InputError(_nothing_accepted(settings, by_prompt, graded))
    yield from lessons


def _check_answers(teacher: str, candidates: Sequence[Candidate], graded: dict[str, list[Verdict]]) -> None:
    """Raises InputError for a teacher that refuses whatever it is asked: its student would learn no answer."""
    harmless = [one for one in candidates if one.teacher == teacher and one.prompt.conduct == "answer"]
    said = [verdict.refused for one in harmless if one.role == "taught" for verdict in graded[one.id]]
    asked = len({one.prompt.id for one in harmless})
    if asked > 1 and said and all(refused == "full" for refused in said):
        raise InputError(
            f"teacher '{teacher}' refused every reply to the {asked} harmless prompts it was asked; choose another "
            "teacher for them, or look at its system prompt"
        )


def _check_known(risks: Sequence[Risk]) -> None:
    """Raises InputError where no risk is known at all: every lesson would have its hard label."""
    if risks and not any(one.scored or one.teacher is not None for one in risks):
        raise InputError(
            f"teach.risk: {risks[0].judge} could score none of {len(risks)} prompts (of the first: {risks[0].why}); "
            "name another guard, or remove teach.risk to teach the conduct alone"
        )
    if not any(one.scored for one in risks):
        draws = sum(len(one.said) for one in risks)
        why = next((f" (of the first: {one.why})" for one in risks), "; its teacher is for none of the prompts")
        raise InputError(
            f"teach.risk: of {draws} draws on {len(risks)} prompts none could be scored{why}; name another judge or "
            "teacher, or remove teach.risk to teach the conduct alone"
        )


def _lesson(
    settings: SiftSettings,
    prompt: Prompt,
    drawn: Sequence[Candidate],
    graded: dict[str, list[Verdict]],
    risk: Risk | None,
) -> Lesson:
    avoided = [one for one in drawn if any(handled_safely(prompt.conduct, said) is False for said in graded[one.id])]
    # A reply to be avoided is never the reply to learn, however close the judge's call was.
    taught = [one for one in drawn if one.role == "taught" and one not in avoided]
    scores = {one.id: _score(one, graded[one.id]) for one in taught}
    best = max(taught, key=lambda one: (scores[one.id], -one.attempt), default=None)
    weight, rule = _weight(settings, best, scores)
    used = ([best] if best is not None else []) + [one for one in avoided if one is not best]
    accepted = best is not None and weight > 0
    return Lesson(
        prompt=prompt,
        reply=best.reply if best is not None and accepted else None,
        ends=best is not None and best.finish == "stop",
        begun=best is not None and accepted and best.begun,
        teacher=best.teacher if best is not None else "",
        reasoning=best.reasoning if best is not None and accepted else None,
        rejected=tuple(dict.fromkeys(one.reply for one in avoided)),
        weight=weight if accepted else 1.0,
        risk=HARD_RISK[prompt.conduct] if risk is None or risk.value is None else risk.value,
        provenance=Provenance(
            candidates=tuple(one.id for one in used),
            verdicts=tuple(said.id for one in used for said in graded[one.id]),
            rule=rule,
            risk=_risk_rule(risk),
            drawn=None if risk is None else risk.id,
        ),
    )


def _risk_rule(risk: Risk | None) -> str:
    if risk is None:
        return "conduct"
    if risk.teacher is None:
        told = f"guard: {risk.judge} {risk.version} of the prompt"
        return told if risk.scored else f"conduct, the guard could not say: {risk.why}"
    if not risk.scored:
        return f"conduct, no draw could be scored: {risk.why}"
    told = f"{len(risk.scored)} of {len(risk.said)} draws of {risk.teacher} scored by {risk.judge} {risk.version}"
    return f"draws: {told}"


def _score(candidate: Candidate, said: Sequence[Verdict]) -> float:
    """The least probability of any judge that the reply does what is expected; -1 where none could say."""
    if candidate.finish not in ("stop", "length"):
        return -1.0
    scores = [as_expected(candidate.prompt.conduct, verdict) for verdict in said]
    known = [score for score in scores if score is not None]
    return min(known) if known and len(known) == len(scores) else -1.0


def _weight(settings: SiftSettings, best: Candidate | None, scores: dict[str, float]) -> tuple[float, str]:
    if best is None:
        return 0.0, "no reply that may be learnt: the decision alone"
    if best.by_house:
        return 1.0, "kept: the words of the house"
    score = scores[best.id]
    if score < 0:
        return 0.0, f"{best.finish if best.finish in ('blocked', 'failed') else 'unscored'}: the decision alone"
    if score >= settings.keep:
        return 1.0, f"kept: {score:.2f} >= keep {settings.keep}"
    if score >= settings.downweight:
        return score, f"down-weighted: {score:.2f} >= downweight {settings.downweight}"
    return 0.0, f"rejected: {score:.2f} < downweight {settings.downweight}: the decision alone"


def _nothing_accepted(
    settings: SiftSettings, by_prompt: dict[str, list[Candidate]], graded: dict[str, list[Verdict]]
) -> str:
    taught = [one for drawn in by_prompt.values() for one in drawn if one.role == "taught" and not one.by_house]
    refused = sum(any(said.refused == "full" for said in graded[one.id]) for one in taught)
    harmful = sum(any(said.harmful for said in graded[one.id]) for one in taught)
    failed = sum(one.finish in ("blocked", "failed") for one in taught)
    asked = len({one.prompt.id for one in taught})
    remedy = (
        f"mend why (of the first: {taught[0].why or taught[0].finish}), or choose another teacher"
        if taught and failed == len(taught)
        else "look at them with `limbeck show`, choose another teacher, or lower sift.downweight "
        f"(now {settings.downweight}); a draw with harm is never learnt, by the thresholds of judges.profile and "
        "teach.until.profile"
    )
    return (
        f"no reply was accepted: of {len(taught)} draws on {asked} prompts {refused} were refusals, "
        f"{harmful} harmful to a judge and {failed} blocked or failed; {remedy}"
    )

"""Prompts in, risks out: how often a teacher refuses a prompt when it is asked again and again, or how harmful a guard
calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from limbeck.judges.asking import OfPrompts
from limbeck.judges.grade import verdicts
from limbeck.models.answer import ask
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Exchange, Store
from limbeck.records import Prompt, Reply, Risk, Verdict, known_sum, request_of
from limbeck.teach.settings import DrawnRisk, GuardedRisk


def draw_risk(settings: DrawnRisk, teacher: ModelSpec, prompts: Sequence[Prompt], *, store: Store) -> Iterator[Risk]:
    """The risk of each distinct open-ended prompt that the teacher is for, whether or not it wants a reply.

    Every draw is kept as it comes. One that is blocked, failed, empty or unscored counts neither as a refusal nor as
    an answer.
    """
    asked = [one for one in open_ended(prompts) if teacher.is_for(one)]
    requests = [
        request_of(prompt, max_tokens=settings.max_tokens, temperature=settings.temperature, seed=store.seed + draw)
        for prompt in asked
        for draw in range(settings.draws)
    ]
    with store.tools.opened(teacher) as model:
        replies = list(ask(model, requests, store, label=f"{teacher.name} draws for risk"))
    exchanges = [
        Exchange(f"{at}", asked[at // settings.draws].text, reply.answer)
        for at, reply in enumerate(replies)
        if reply.answer is not None
    ]
    graded = verdicts([settings.judge], exchanges, store.tools, store=store)
    shown = store.progress("grading draws for risk", graded, total=len(exchanges))
    verdict_of = {int(verdict.of): verdict for verdict in shown}
    for at, prompt in enumerate(asked):
        places = range(at * settings.draws, (at + 1) * settings.draws)
        mine = [verdict_of[place] for place in places if place in verdict_of]
        said = [_refuses(settings, verdict_of.get(place)) for place in places]
        drawn = [replies[place] for place in places]
        costs = [reply.cost for reply in drawn if reply.cost is not None]
        unknown = [place for place, one in zip(places, said, strict=True) if one is None]
        yield Risk(
            prompt=prompt.id,
            teacher=teacher.name,
            judge=mine[0].judge if mine else settings.judge.kind,
            version=mine[0].version if mine else "",
            said=tuple(said),
            prompt_tokens=known_sum(reply.prompt_tokens for reply in drawn),
            reply_tokens=known_sum(reply.reply_tokens for reply in drawn),
            cost=sum(costs) if costs else None,
            without_cost=len(drawn) - len(costs),
            why=_why(replies[unknown[0]], verdict_of.get(unknown[0])) if unknown else "",
        )


def guard_risk(settings: GuardedRisk, prompts: Sequence[Prompt], *, store: Store) -> Iterator[Risk]:
    """The risk of each distinct open-ended prompt, in one number: how harmful the guard calls it.

    What the guard's model answers is kept as it comes.
    """
    asked = open_ended(prompts)
    exchanges = [Exchange(one.id, one.text, "", one.language) for one in asked]
    with store.tools.grading(OfPrompts(settings.judge), store=store) as grade:
        said = store.progress("asking the guard for risk", grade(exchanges), total=len(exchanges))
        for prompt, verdict in zip(asked, said, strict=True):
            yield Risk(
                prompt=prompt.id,
                teacher=None,
                judge=verdict.judge,
                version=verdict.version,
                said=(max(verdict.harm.values()) if verdict.harm else None,),
                why=verdict.unscored or "",
            )


def open_ended(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those that have a risk: each distinct prompt without choices."""
    return [one for one in {one.id: one for one in prompts}.values() if not one.choices]


def _refuses(settings: DrawnRisk, verdict: Verdict | None) -> float | None:
    """Whether a draw refuses, or with which probability, in [0, 1]; None where nobody could say."""
    if verdict is None or settings.of == "probability":
        return None if verdict is None else verdict.p_refused
    return None if verdict.refused is None else float(verdict.refused != "none")


def _why(reply: Reply, verdict: Verdict | None) -> str:
    if verdict is None:
        return reply.why or reply.finish
    return verdict.unscored or f"judge {verdict.judge} does not say whether a reply refuses"

"""Rejection sampling: a teacher is asked again where the judge did not accept what it said."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal

from limbeck.judges.grade import as_expected, handled_safely, verdicts
from limbeck.models.answer import ask
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Exchange, Store
from limbeck.records import Candidate, Prompt, Reply, request_of
from limbeck.teach.settings import TeachSettings


def draw_until_accepted(
    settings: TeachSettings,
    teacher: ModelSpec,
    prompts: Sequence[Prompt],
    store: Store,
    *,
    role: Literal["taught", "rejected"] = "taught",
    begun: bool = False,
) -> Generator[Candidate, None, list[Candidate]]:
    """Every draw on every prompt: greedy first, sampled after a rejection, at most `settings.draws` of them. Those cut
    at `settings.max_tokens` are beginnings where these are what is asked for.

    Returns those of the last draw, which nothing was drawn after and nobody judged.
    """
    draws = settings.draws if teacher.redraws else 1
    waiting = list(prompts)
    drawn: list[Candidate] = []
    with store.tools.opened(teacher) as model:
        for attempt in range(draws):
            temperature = settings.temperature if attempt else 0.0
            requests = [
                request_of(prompt, max_tokens=settings.max_tokens, temperature=temperature, seed=store.seed + attempt)
                for prompt in waiting
            ]
            label = f"{teacher.name or teacher.kind} {'beginnings' if begun else 'replies'}" + (
                f", draw {attempt + 1}" if attempt else ""
            )
            drawn = [
                _candidate(
                    prompt, reply, teacher=teacher.name, role=role, begun=begun, attempt=attempt, seed=request.seed
                )
                for prompt, request, reply in zip(
                    waiting, requests, ask(model, requests, store, label=label), strict=True
                )
            ]
            yield from drawn
            if attempt + 1 < draws and not (waiting := not_accepted(settings, drawn, store)):
                return []
    return drawn


def _candidate(
    prompt: Prompt,
    reply: Reply,
    *,
    teacher: str,
    role: Literal["taught", "rejected"],
    begun: bool,
    attempt: int,
    seed: int,
) -> Candidate:
    empty = reply.finish in ("stop", "length") and not reply.text.strip()
    return Candidate(
        prompt=prompt,
        teacher=teacher,
        role=role,
        reply=reply.text,
        reasoning=reply.reasoning,
        finish="failed" if empty else reply.finish,
        begun=begun and reply.finish == "length",
        attempt=attempt,
        seed=seed,
        prompt_tokens=reply.prompt_tokens,
        reply_tokens=reply.reply_tokens,
        cost=reply.cost,
        why=reply.why or "the reply is empty" if empty else reply.why,
    )


def not_accepted(settings: TeachSettings, drawn: Sequence[Candidate], store: Store) -> list[Prompt]:
    """The prompts of these draws whose reply the judge does not take."""
    said = [one for one in drawn if one.finish in ("stop", "length")]
    exchanges = [Exchange(one.id, one.prompt.text, one.reply, one.prompt.language) for one in said]
    until = settings.until
    graded = verdicts([until.judge], exchanges, store.tools, store=store, profile=until.profile)
    accepted = {
        one.prompt.id
        for one, verdict in zip(said, graded, strict=True)
        if (as_expected(one.prompt.conduct, verdict) or 0.0) >= until.at_least
        and handled_safely(one.prompt.conduct, verdict) is not False
    }
    return [one.prompt for one in drawn if one.prompt.id not in accepted]

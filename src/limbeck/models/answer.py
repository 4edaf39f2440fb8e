"""Asking a model: each request is answered once, kept at once, and never asked again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TypeVar

from pydantic import Field

from limbeck.models.spec import ModelSpec
from limbeck.protocols import ChatModel, Scorer, Store
from limbeck.records import ChoiceRequest, ChoiceScores, Prompt, Reply, Request, Trial, request_of
from limbeck.spec import Spec

Asked = TypeVar("Asked", Request, ChoiceRequest)


def ask(model: ChatModel, requests: Sequence[Request], store: Store, *, label: str) -> Iterator[Reply]:
    """The reply to each request, in order; those kept from before are not asked for again."""
    torn = [
        group
        for group in _planned(model, _distinct(requests), store)
        if any(store.get(_key(model, request)) is None for request in group)
    ]
    key_of = {request.id: _key(model, request) for group in torn for request in group}
    calls = [[request for group in torn for request in group]] if model.asked_together == 1 else torn
    replies = (reply for call in calls for reply in model.replies(call))
    for reply in store.progress(label, replies, total=len(key_of)):
        store.put(key_of[reply.request_id], reply.line())
    for request in requests:
        yield Reply.read(_kept(store, _key(model, request)))


def _planned(model: ChatModel, requests: Sequence[Request], store: Store) -> list[list[Request]]:
    """What nobody had answered when the stage began, in the groups that the model computes together.

    The plan is kept, and a group that a kill tore is computed whole: rounding hangs on who shares a batch, and a
    run that was stopped must say what one left alone says.
    """
    by_key = {_key(model, request): request for request in requests}
    plan = _hash("plan", store.key, *by_key)
    if store.get(plan) is None:
        store.put(plan, json.dumps([key for key in by_key if store.get(key) is None]))
    keys = sorted(json.loads(_kept(store, plan)), key=lambda key: len(by_key[key].messages[-1].content))
    starts = range(0, len(keys), model.asked_together)
    return [[by_key[key] for key in keys[start : start + model.asked_together]] for start in starts]


def ask_scores(
    model: Scorer, identity: str, requests: Sequence[ChoiceRequest], store: Store, *, label: str
) -> Iterator[ChoiceScores]:
    """The scores of each request's choices, in order; those kept from before are not computed again."""
    key_of = {request.id: _hash(identity, request.id) for request in requests}
    new = [request for request in _distinct(requests) if store.get(key_of[request.id]) is None]
    for scores in store.progress(label, model.choice_scores(new), total=len(new)):
        store.put(key_of[scores.request_id], scores.line())
    for request in requests:
        yield ChoiceScores.read(_kept(store, key_of[request.id]))


def _distinct(requests: Sequence[Asked]) -> list[Asked]:
    return list({request.id: request for request in requests}.values())


def _key(model: ChatModel, request: Request) -> str:
    return _hash(model.identity, request.id)


def _kept(store: Store, key: str) -> str:
    line = store.get(key)
    if line is None:
        raise AssertionError(f"a model left request {key} unanswered")
    return line


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class AnswerSettings(Spec):
    """How long a measured reply may be; it is greedy, so that a model is measured at its most likely."""

    max_tokens: int = Field(default=256, ge=1)


def answer(settings: AnswerSettings, subject: ModelSpec, prompts: Sequence[Prompt], *, store: Store) -> Iterator[Trial]:
    """One greedy reply of the subject to each prompt, as a trial."""
    open_ended = [prompt for prompt in prompts if not prompt.choices]
    requests = [request_of(prompt, max_tokens=settings.max_tokens) for prompt in open_ended]
    with subject.open() as model:
        replies = ask(model, requests, store, label=f"{subject.name} replies")
        for prompt, reply in zip(open_ended, replies, strict=True):
            yield trial_of(Trial(prompt=prompt, subject=subject.name, asked="reply"), reply)


def trial_of(trial: Trial, reply: Reply) -> Trial:
    """The trial with what was replied; a blocked or failed reply leaves it without text."""
    said = reply.text if reply.finish in ("stop", "length") else None
    return trial.model_copy(update={"reply": said, "finish": reply.finish, "why": reply.why})

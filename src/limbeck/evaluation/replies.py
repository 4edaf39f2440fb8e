"""What a subject replies to the chats of trials: prompts as written, and attacks that begin or lead up to a reply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from limbeck.attacks.embedding import Embedding
from limbeck.models.answer import ask, trial_of
from limbeck.protocols import ChatModel, Pushable, Store
from limbeck.records import Message, Reply, Request, Trial, request_of

# What is sent on where the model has nothing to say in the middle of a talk.
SILENCE = "…"


class Pushed:
    """A model under an attack on its embeddings, as one to ask."""

    def __init__(self, model: ChatModel, attack: Embedding) -> None:
        self.model = model
        self.attack = attack
        self.name = f"{model.name}, pushed,"
        self.identity = f"{model.identity} {attack.model_dump_json()}"

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply a request; failed where the model's embeddings are out of reach."""
        if isinstance(self.model, Pushable):
            yield from self.model.pushed_replies(requests, steps=self.attack.steps, reach=self.attack.reach)
            return
        for request in requests:
            why = f"{self.model.name} has no embeddings that could be attacked"
            yield Reply(request_id=request.id, text="", finish="failed", why=why)


def replied(model: ChatModel, trials: Sequence[Trial], store: Store, *, max_tokens: int) -> list[Trial]:
    """The trials with their replies. Turns of a talk that are the model's own are asked for first, one of each talk at
    a time; a reply that was begun for it holds its beginning."""
    found = list(trials)
    while waiting := [at for at, one in enumerate(found) if _own_turn(one) is not None and one.finish is None]:
        requests = [_request(found[at], found[at].sent[: _own_turn(found[at])], max_tokens) for at in waiting]
        for at, reply in zip(waiting, ask(model, requests, store, label=f"{model.name} talks"), strict=True):
            found[at] = _gone_on(found[at], reply)
    last = [at for at, one in enumerate(found) if one.finish is None]
    requests = [_request(found[at], found[at].sent, max_tokens) for at in last]
    for at, reply in zip(last, ask(model, requests, store, label=f"{model.name} answers"), strict=True):
        found[at] = trial_of(found[at], _whole(found[at], reply))
    return found


def _request(trial: Trial, sent: Sequence[Message], max_tokens: int) -> Request:
    """The request for the next turn. Nobody has a recorded reply to an attack, or after other reasoning: it names no
    prompt and no reference."""
    temperature = 1.0 if trial.sample else 0.0
    if not trial.sent:
        return request_of(trial.prompt, max_tokens=max_tokens, temperature=temperature, seed=trial.sample)
    return Request(messages=tuple(sent), max_tokens=max_tokens, temperature=temperature, seed=trial.sample)


def _own_turn(trial: Trial) -> int | None:
    """The place of the first turn that the model is still to say; None where there is none."""
    return next((at for at, turn in enumerate(trial.sent) if turn.role == "assistant" and not turn.content), None)


def _gone_on(trial: Trial, reply: Reply) -> Trial:
    """The trial with the model's turn said; one that was blocked or failed ends there."""
    if reply.finish not in ("stop", "length"):
        return trial_of(trial, reply)
    at = _own_turn(trial)
    said = Message(role="assistant", content=reply.text or SILENCE)
    return trial.model_copy(update={"sent": tuple(said if n == at else turn for n, turn in enumerate(trial.sent))})


def _whole(trial: Trial, reply: Reply) -> Reply:
    """The reply with the beginning that an attack put into the model's mouth, as its user would read it."""
    begun = trial.sent[-1].content if trial.attack is not None and trial.is_begun else ""
    return reply.model_copy(update={"text": f"{begun} {reply.text}".strip()}) if begun else reply

"""Asking a model: each request is answered once, kept at once, and never asked again."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TypeAlias, TypeVar

from pydantic import Field

from limbeck.models.spec import ModelSpec
from limbeck.protocols import Asked, Batching, ChatModel, Continuation, Scorer, SharedModel, SoftLabeller, Store, TopK
from limbeck.records import ChoiceRequest, ChoiceScores, Prompt, Reply, Request, Trial, request_of
from limbeck.spec import Spec

Answer = TypeVar("Answer", Reply, ChoiceScores)
Compute: TypeAlias = Callable[[Sequence[Asked]], Iterator[Answer]]


def ask(model: ChatModel, requests: Sequence[Request], store: Store, *, label: str | None) -> Iterator[Reply]:
    """The reply to each request, in order; those kept from before are not asked for again. Without a label no bar is
    shown."""
    compute: Callable[[Sequence[Sequence[Request]]], Iterator[Reply]]
    if isinstance(model, SharedModel):
        compute = model.replies_of
    elif isinstance(model, Batching):
        compute = partial(_in_turn, model.replies)
    else:
        # A server takes several at a time, and each reply stands alone.
        compute = partial(_at_once, model.replies)
    batches_of = model.reply_batches if isinstance(model, Batching) else _alone
    said = _answers(model.identity, batches_of, compute, requests, store, label=label)
    yield from map(Reply.read, said)


def ask_scores(model: Scorer, requests: Sequence[ChoiceRequest], store: Store, *, label: str) -> Iterator[ChoiceScores]:
    """The scores of each request's choices, in order; those kept from before are not computed again."""
    scores_of = partial(_in_turn, model.choice_scores)
    said = _answers(model.identity, model.score_batches, scores_of, requests, store, label=label)
    yield from map(ChoiceScores.read, said)


class KeptModel:
    """A model whose replies are kept: what a run has asked it once it is never asked again."""

    def __init__(self, model: ChatModel, store: Store) -> None:
        self.model = model
        self.store = store
        self.name = model.name
        self.identity = model.identity

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """The reply to each request, in order."""
        yield from ask(self.model, requests, self.store, label=None)


class KeptLabeller:
    """A model whose soft labels are kept, reply by reply: what a run has had scored it never has scored again."""

    def __init__(self, model: SoftLabeller, store: Store, *, identity: str) -> None:
        self.model = model
        self.store = store
        self.identity = identity
        self.vocabulary = model.vocabulary

    def soft_targets(self, replies: Sequence[Continuation], *, top: int) -> Iterator[tuple[str, TopK]]:
        """The kept ones, then the others as they come. One that is left out is asked for again the next time."""
        key_of = {one.id: self._key(one, top) for one in replies}
        missing = []
        for one in replies:
            line = self.store.get(key_of[one.id])
            if line is None:
                missing.append(one)
            else:
                yield one.id, _unpacked(line)
        if missing:
            for name, target in self.model.soft_targets(missing, top=top):
                self.store.put({key_of[name]: _packed(target)})
                yield name, target

    def _key(self, one: Continuation, top: int) -> str:
        chat = json.dumps([turn.model_dump() for turn in one.messages])
        return _hash("soft labels", self.identity, self.vocabulary, str(top), chat, one.reply, str(one.ends))


def _packed(target: TopK) -> str:
    """One line of text, a third of the same in digits."""
    from safetensors.torch import save

    columns = target._replace(ids_NK=target.ids_NK.int())._asdict()
    return b64encode(save(columns)).decode()


def _unpacked(line: str) -> TopK:
    from safetensors.torch import load

    target = TopK(**load(b64decode(line)))
    return target._replace(ids_NK=target.ids_NK.long())


def _in_turn(compute: Compute[Asked, Answer], batches: Sequence[Sequence[Asked]]) -> Iterator[Answer]:
    """What is computed of each batch, one after the other."""
    for batch in batches:
        yield from compute(batch)


def _at_once(compute: Compute[Asked, Answer], batches: Sequence[Sequence[Asked]]) -> Iterator[Answer]:
    return compute(list(chain.from_iterable(batches)))


def _alone(requests: Sequence[Asked]) -> list[list[Asked]]:
    return [[request] for request in requests]


def _answers(
    identity: str,
    batches_of: Callable[[Sequence[Asked]], list[list[Asked]]],
    compute: Callable[[Sequence[Sequence[Asked]]], Iterator[Answer]],
    requests: Sequence[Asked],
    store: Store,
    *,
    label: str | None,
) -> Iterator[str]:
    """The kept line of each request's answer, in order, once what is missing has been computed.

    A batch is kept when all of it has been answered: one that a kill tore is computed as it was planned.
    """
    key_of = {request.id: _hash(identity, request.id) for request in requests}
    missing = _missing({key_of[request.id]: request for request in requests}, batches_of, store)
    batch_of = {request.id: at for at, batch in enumerate(missing) for request in batch}
    made: dict[int, dict[str, str]] = defaultdict(dict)
    computed = compute(missing)
    if label is not None:
        computed = store.progress(label, computed, total=len(batch_of))
    for answer in computed:
        at = batch_of[answer.request_id]
        made[at][key_of[answer.request_id]] = answer.line()
        if len(made[at]) == len(missing[at]):
            store.put(made.pop(at))
    for request in requests:
        yield _kept(store, key_of[request.id])


def _missing(
    by_key: Mapping[str, Asked], batches_of: Callable[[Sequence[Asked]], list[list[Asked]]], store: Store
) -> list[list[Asked]]:
    """What has no answer, in the batches that were planned when the stage began; then what lost its answer since.

    The plan is kept: rounding hangs on who shares a batch, and a run that was stopped says what one left alone says.
    """
    unanswered = {key: by_key[key] for key in by_key if store.get(key) is None}
    if not unanswered or batches_of is _alone:
        return _alone(list(unanswered.values()))
    key_of = {request.id: key for key, request in by_key.items()}
    plan = _hash("batches", store.key, *by_key)
    if store.get(plan) is None:
        planned = batches_of(list(unanswered.values()))
        store.put({plan: json.dumps([[key_of[request.id] for request in batch] for batch in planned])})
    batches = [keys for keys in json.loads(_kept(store, plan)) if not unanswered.keys().isdisjoint(keys)]
    lost = unanswered.keys() - chain.from_iterable(batches)
    found = [[by_key[key] for key in keys] for keys in batches]
    return found + (batches_of([by_key[key] for key in by_key if key in lost]) if lost else [])


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
    """The trial with what was replied; one that was blocked, failed or cut off before its answer leaves it without
    text."""
    said = {"reply": reply.answer, "reasoning": reply.reasoning, "finish": reply.finish, "why": reply.why}
    spent = {"prompt_tokens": reply.prompt_tokens, "reply_tokens": reply.reply_tokens, "cost": reply.cost}
    return trial.model_copy(update=said | spent)

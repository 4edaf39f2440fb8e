"""How alike the next-token distributions of two models are, or of one on two wordings of a prompt.

Axes: N reply tokens, K known ids, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from limbeck.models.spec import ModelSpec
from limbeck.protocols import ChatModel, Continuation, LiveTeacher, SoftLabeller, Store, TopK
from limbeck.records import Message, Trial
from limbeck.targets.mixture import disagreement

if TYPE_CHECKING:
    from torch import Tensor

# More ids than any vocabulary has: the distribution is wanted whole.
ALL = 2**31


class Alike(NamedTuple):
    """Of the tokens of one reply: 1 − their mean Jensen-Shannon divergence (base 2), in [0, 1], the share whose
    likeliest next token is the same, and how many they are."""

    alignment: float
    same_top: float
    tokens: int


def compared(model: ChatModel, teacher: ModelSpec | None, trials: Sequence[Trial], store: Store) -> list[Trial]:
    """The trials with how alike the distributions over the prompt's reference reply are: with the teacher's, or where
    the prompt was `sent` in other words with the model's own on the prompt as written."""
    noisy, others = [one for one in trials if one.sent], [one for one in trials if not one.sent]
    found = [*_alike(model, model, noisy, store)] if noisy else []
    if others and teacher is not None:
        with teacher.open() as taught_by:
            found += _alike(model, taught_by, others, store)
    return found


def _alike(model: ChatModel, other: ChatModel, trials: Sequence[Trial], store: Store) -> Iterator[Trial]:
    """Both models stay open: whole distributions are too large to be kept in between."""
    if why := _unlike(model, other):
        yield from (trial.model_copy(update={"why": why}) for trial in trials)
        return
    for trial in store.progress(f"{model.name} distributions", trials, total=len(trials)):
        key = hashlib.sha256(f"alike {model.identity} {other.identity} {trial.id}".encode()).hexdigest()
        if (line := store.get(key)) is None:
            said = _of(model, trial.sent or trial.prompt.messages, trial)
            taught = _of(other, trial.prompt.messages, trial)
            if said is None or taught is None:
                full = model if said is None else other
                why = f"the context of {full.name} does not hold the prompt and its reference reply"
                yield trial.model_copy(update={"why": why})
                continue
            line = json.dumps(alike(said, taught))
            store.put({key: line})
        alignment, same_top, tokens = json.loads(line)
        yield trial.model_copy(update={"scores": (alignment, same_top), "tokens": (tokens, tokens)})


def _unlike(model: ChatModel, other: ChatModel) -> str:
    """Why the two cannot be compared; empty where they can."""
    for one in (model, other):
        # A server gives some ids of a distribution at most.
        if not isinstance(one, LiveTeacher):
            return f"{one.name} gives no whole distributions"
    assert isinstance(model, LiveTeacher) and isinstance(other, LiveTeacher)
    return "" if model.vocabulary == other.vocabulary else f"{other.name} has another vocabulary"


def _of(model: ChatModel, messages: tuple[Message, ...], trial: Trial) -> TopK | None:
    """The model's distributions over the reference reply; None where its context does not hold it."""
    assert isinstance(model, SoftLabeller)
    told = Continuation(trial.id, messages, trial.prompt.reference or "", ends=True)
    return dict(model.soft_targets([told], top=ALL)).get(trial.id)


def alike(first: TopK, second: TopK) -> Alike:
    """How alike two whole distributions over the same tokens are."""
    import torch

    size = 1 + max(int(first.ids_NK.max()), int(second.ids_NK.max()))
    p_NV, q_NV = (_dense(one, size) for one in (first, second))
    alignment = 1 - float(disagreement(torch.stack([p_NV, q_NV])).mean())
    same_N = p_NV.argmax(-1) == q_NV.argmax(-1)
    return Alike(alignment, float(same_N.double().mean()), len(same_N))


def _dense(found: TopK, size: int) -> Tensor:
    """Probabilities by id, shape (N, V)."""
    import torch

    rows = torch.zeros(len(found.ids_NK), size, dtype=torch.float64)
    return rows.scatter_(1, found.ids_NK, found.logprobs_NK.double().exp())

"""How likely a subject finds given texts: choices, continuations, sentences, refusal openings, reference replies."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.models.answer import ask_scores
from limbeck.models.reasoning import USUAL, Reasoning
from limbeck.protocols import ChatModel, Scorer, Store
from limbeck.records import ChoiceRequest, ChoiceScores, Trial
from limbeck.taxonomy import REFUSAL_OPENINGS


def scored(model: ChatModel, trials: Sequence[Trial], store: Store, *, reasoning: Reasoning = USUAL) -> list[Trial]:
    """The trials with their scores; a model without log-probabilities leaves them unscored, one that may reason scores
    them where an answer without `reasoning` would begin."""
    if not isinstance(model, Scorer):
        return [trial.model_copy(update={"why": f"{model.name} gives no log-probabilities"}) for trial in trials]
    requests = [score_request(trial, reasoning) for trial in trials]
    found = ask_scores(model, requests, store, label=f"{model.name} scores")
    return [_told(trial, one) for trial, one in zip(trials, found, strict=True)]


def score_request(trial: Trial, reasoning: Reasoning = USUAL) -> ChoiceRequest:
    """What is to be scored in a trial that asks for no reply."""
    messages, choices = trial.prompt.messages, trial.prompt.choices
    if trial.asked == "decision":
        choices = REFUSAL_OPENINGS
    elif trial.asked == "reference":
        choices = (trial.prompt.reference or "",)
    if trial.asked == "sentences":
        messages = ()
    bare = trial.asked in ("continuations", "sentences")
    return ChoiceRequest(messages=messages if bare else reasoning.skipped(messages), choices=choices, bare=bare)


def _told(trial: Trial, found: ChoiceScores) -> Trial:
    scores = found.total if trial.asked == "decision" else found.per_token
    return trial.model_copy(update={"scores": scores, "tokens": found.tokens, "why": found.why})

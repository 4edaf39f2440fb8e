"""Candidate teachers side by side on a few prompts, before anything is taught."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from limbeck.config import RunConfig
from limbeck.curate import planned
from limbeck.errors import InputError, LimbeckError
from limbeck.evaluation import with_likeness
from limbeck.evaluation.refusal import Refusal
from limbeck.evaluation.safety import Safety
from limbeck.evaluation.scores import scored
from limbeck.evaluation.spec import measurement
from limbeck.evaluation.usefulness import Usefulness
from limbeck.judges.grade import graded
from limbeck.models.answer import ask, trial_of
from limbeck.models.encoder import ModelTools
from limbeck.models.reasoning import USUAL, Reasoning
from limbeck.protocols import ChatModel, Progress, Store
from limbeck.records import Measurement, Prompt, Reply, Scorecard, Trial, request_of, some
from limbeck.report.headline import EVERYDAY, HANDLED, LIKENESS, MULTIPLE_CHOICE, SEPARATION, TWINS, Column, figures
from limbeck.report.headline import as_rich as table_of
from limbeck.stats import NOT_MEASURED, Figure, mean
from limbeck.workspace import Kept, StageStore

if TYPE_CHECKING:
    from rich.table import Table

# Harmful prompts, and as many twins; everyday prompts; items with choices.
PAIRS, EVERYDAY_PROMPTS, ITEMS = 25, 10, 10
REPLY_TOKENS = Column(title="Tokens a reply", meaning="tokens written", name="reply_tokens", unit="score", better="")
SECONDS = Column(title="Seconds a reply", meaning="as it was asked here", name="seconds", unit="score", better="less")
COLUMNS = (
    HANDLED,
    TWINS,
    EVERYDAY,
    SEPARATION,
    MULTIPLE_CHOICE,
    LIKENESS,
    REPLY_TOKENS,
    Column(title="Cost of 1,000", meaning="of 1,000 replies, by its price", name="cost", unit="score", better="less"),
    SECONDS,
)


class Side(NamedTuple):
    """What is known of one teacher; `error` where it could not be asked, `unanswered` why replies did not come."""

    card: Scorecard
    error: LimbeckError | None = None
    unanswered: str = ""


def sample(prompts: Sequence[Prompt], *, seed: int) -> list[Prompt]:
    """Harmful prompts and twins, of the same families first, everyday prompts and items with choices, by hash.

    None is of the exam: what chooses the teacher would not be held out there.
    """
    asked = [one for one in prompts if one.split != "exam" and one.lesson == "reply"]
    harmful = some([one for one in asked if one.conduct == "refuse"], PAIRS, seed)
    families = {one.family for one in harmful}
    twins = [one for one in asked if one.is_twin]
    beside = sorted(some(twins, len(twins), seed), key=lambda one: one.family not in families)[:PAIRS]
    plain = [one for one in asked if one.conduct == "answer" and not one.is_twin]
    everyday = some([one for one in plain if not one.choices], EVERYDAY_PROMPTS, seed)
    return [*harmful, *beside, *everyday, *some([one for one in plain if one.choices], ITEMS, seed)]


def compare_teachers(config: RunConfig, *, progress: Progress) -> list[Side]:
    """Each teacher of the recipe on the sampled prompts that it is for; nothing is kept of it.

    Raises InputError where there is no teacher or no prompt to ask.
    """
    prompts = sample(planned(config.curate, seed=config.seed), seed=config.seed)
    if not config.teach.teachers or not prompts:
        lacking = "teacher; name the candidates in teach.teachers" if prompts else "prompt beside those of the exam"
        raise InputError(f"--teachers: the recipe has no {lacking}")
    sides = []
    for teacher in config.teach.teachers:
        with passing_store(config, progress) as store:
            try:
                with teacher.open() as model:
                    mine = [one for one in prompts if teacher.is_for(one)]
                    said = answers(config, model, mine, store, reasoning=teacher.reasoning)
                known = graded_answers(config, said, store)
            except LimbeckError as error:
                sides.append(Side(Scorecard(model=teacher.name, measurements=()), error=error))
                continue
        measured = [one for dimension in (Safety(), Refusal(), Usefulness()) for one in dimension.measure(known)]
        measured += spent(said.replies, said.seconds if teacher.redraws else None)
        sides.append(Side(Scorecard(model=teacher.name, measurements=tuple(measured)), unanswered=said.unanswered))
    return sides


@contextmanager
def passing_store(config: RunConfig, progress: Progress) -> Iterator[Store]:
    """A store of which nothing stays: a time is of no use where half of the replies were kept from before."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        kept, judged = Kept(root / "kept.jsonl"), Kept(root / "judges.jsonl")
        yield StageStore(
            key="compared", seed=config.seed, tools=ModelTools(), root=root, kept=kept, judged=judged, shown=progress
        )


class Answers(NamedTuple):
    """What one model made of the prompts: its trials, not yet graded, the replies and how long they took, and the items
    with choices."""

    name: str
    trials: list[Trial]
    replies: list[Reply]
    seconds: float
    items: list[Trial]

    @property
    def unanswered(self) -> str:
        """How many replies did not come, with the first reason; empty where all did."""
        failed = [one for one in self.replies if one.answer is None]
        if not failed:
            return ""
        return f"{len(failed)} of {len(self.replies)} replies did not come ({failed[0].why or failed[0].finish})"


def answers(
    config: RunConfig, model: ChatModel, prompts: Sequence[Prompt], store: Store, *, reasoning: Reasoning = USUAL
) -> Answers:
    """One greedy reply of the model to each prompt, `teach.max_tokens` long at most, and its scores of the items."""
    wanted = [Trial(prompt=one, subject=model.name, asked="choices" if one.choices else "reply") for one in prompts]
    asked = [one for one in wanted if one.asked == "reply"]
    requests = [request_of(one.prompt, max_tokens=config.teach.max_tokens) for one in asked]
    started = time.monotonic()
    replies = list(ask(model, requests, store, label=f"{model.name} replies"))
    seconds = time.monotonic() - started
    items = scored(model, [one for one in wanted if one.asked == "choices"], store, reasoning=reasoning)
    trials = [trial_of(trial, reply) for trial, reply in zip(asked, replies, strict=True)]
    return Answers(model.name, trials, replies, seconds, items)


def graded_answers(config: RunConfig, said: Answers, store: Store) -> list[Trial]:
    """All trials, the replies graded by the judges of the exam."""
    judges, profile = config.evaluate.judges, config.evaluate.profile
    trials = [one.model_copy(update={"prompt": profile.due(one.prompt)}) for one in said.trials]
    graded_trials = graded(trials, judges, store, label=f"grading {said.name}", profile=profile)
    return [*with_likeness(graded_trials, store.tools.encoder()), *said.items]


def spent(replies: Sequence[Reply], seconds: float | None) -> Iterator[Measurement]:
    """Tokens, cost and time of a reply; a recording has none of them."""
    came = [one for one in replies if one.answer is not None]
    tokens = [float(one.reply_tokens) for one in came if one.reply_tokens]
    costs = [1000 * one.cost for one in came if one.cost is not None]
    yield measurement("reply_tokens", mean(tokens), len(tokens), len(replies) - len(tokens))
    yield measurement("cost", mean(costs), len(costs), len(replies) - len(costs))
    timed = came if seconds is not None else []
    figure = Figure(seconds / len(timed), None, None) if seconds is not None and timed else NOT_MEASURED
    yield measurement("seconds", figure, len(timed), len(replies) - len(timed))


def as_rich(sides: Sequence[Side]) -> Table:
    """The comparison as a table for a console: a line for each figure, a column for each teacher."""
    return table_of(figures([one.card for one in sides], COLUMNS), "Teachers")


def complaint(sides: Sequence[Side]) -> LimbeckError | None:
    """The error of the teachers that could not be asked, with the exit code of the first; None where all could."""
    found = [(one.card.model, one.error) for one in sides if one.error is not None]
    if not found:
        return None
    return type(found[0][1])("\n".join(f"could not ask {name}: {error}" for name, error in found))

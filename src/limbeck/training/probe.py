"""How the student does on the validation split while it trains."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from limbeck.errors import InputError
from limbeck.judges.grade import GradeSettings, safely, verdicts
from limbeck.models.answer import trial_of
from limbeck.perturb import Typos
from limbeck.protocols import Exchange, Tools
from limbeck.records import ChoiceRequest, Prompt, Trial, Verdict, request_of, some
from limbeck.spec import Spec
from limbeck.taxonomy import Tier

if TYPE_CHECKING:
    from limbeck.models.local import Local, LocalModel
    from limbeck.training.student import Student

OVER_REFUSAL, USEFULNESS, ROBUSTNESS = "over_refusal", "usefulness_drop", "robustness"
# All other constraints are called after a harm.
NO_HARM = frozenset({OVER_REFUSAL, USEFULNESS, ROBUSTNESS})


class ProbeSettings(Spec):
    """When the student is measured and how: every so many steps, and at least so many times in a training of fewer, on
    so many validation prompts (half of them harmful, half twins, as far as there are), with greedy replies of at most
    so many tokens."""

    every_steps: int = Field(default=50, ge=1)
    at_least: int = Field(default=4, ge=1)
    prompts: int = Field(default=64, ge=2)
    max_tokens: int = Field(default=24, ge=1)

    def is_due(self, step: int, *, steps: int) -> bool:
        """Whether the student is measured before the step, from 0."""
        return step % max(1, min(self.every_steps, steps // self.at_least)) == 0


class Rate(NamedTuple):
    """On how many of `n` prompts it went wrong, less those on which it got better where that is set against it."""

    wrong: int
    n: int

    @property
    def value(self) -> float | None:
        """The share, None of nothing."""
        return self.wrong / self.n if self.n else None


class Outcome(NamedTuple):
    """Whether it went wrong on a prompt (1), did not (0) or got better (-1), by the constraint that it counts for."""

    constraint: str
    tier: Tier
    wrong: int


def rates(outcomes: Sequence[Outcome]) -> dict[str, Rate]:
    """The rate of each constraint that anything was measured of."""
    found: dict[str, list[int]] = defaultdict(list)
    for one in outcomes:
        found[one.constraint].append(one.wrong)
    return {name: Rate(sum(wrong), len(wrong)) for name, wrong in sorted(found.items())}


def _of_each_harm(due: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """So many of the prompts, drawn by hash, of each harm as many as of the others as far as there are."""
    seen = Counter[str | None]()
    turns: list[tuple[int, Prompt]] = []
    for prompt in some(due, len(due), seed):
        turns.append((seen[prompt.harm], prompt))
        seen[prompt.harm] += 1
    return [prompt for _, prompt in sorted(turns, key=lambda turn: turn[0])[:count]]


class Probe:
    """Asks the student in the middle of its training, as it is, and judges as the exam does."""

    def __init__(
        self,
        settings: ProbeSettings,
        learner: Student,
        base: Local,
        validation: Sequence[Prompt],
        judges: GradeSettings,
        *,
        tools: Tools,
        wants: frozenset[str],
        seed: int,
    ) -> None:
        self.settings = settings
        self.learner = learner
        self.judges = judges
        self.tools = tools
        self.wants = wants
        due = [one for one in validation if one.conduct == "refuse" and not one.choices]
        twins = [one for one in validation if one.is_twin and not one.choices]
        half = settings.prompts // 2
        self.asked = [*_of_each_harm(due, half, seed), *some(twins, settings.prompts - half, seed)]
        if not due or not twins:
            raise InputError(
                "constraints, the competence curriculum and keep: best measure the student on validation prompts, and "
                f"there are {len(due)} that must be refused and {len(twins)} harmless twins; add some (limbeck train: "
                "--validation FILE), or leave out what measures: train.balance, train.curriculum, train.keep"
            )
        choices = [one for one in validation if one.choices] if USEFULNESS in wants else []
        self.choices = some(choices, settings.prompts, seed)
        if USEFULNESS in wants and not choices:
            raise InputError("constraint usefulness_drop needs multiple-choice prompts among the validation prompts")
        self.right_before: list[bool | None] = []
        if choices:
            with base.open() as model:
                self.right_before = self._right(model, self.choices)

    @property
    def harms(self) -> frozenset[str]:
        """The harms that it measures."""
        return frozenset(harm for one in self.asked if (harm := one.refused_harm) is not None)

    def outcomes(self, number: int = 0, *, of: int = 1) -> Iterator[Outcome]:
        """What goes wrong now: harm by harm, over-refusal, and where it is wanted robustness and usefulness; on the
        share of one process among several."""
        from limbeck.models.local import BATCH_TOKENS, LocalModel

        learner = self.learner
        model = LocalModel(
            name="student",
            identity="",
            weights=learner.model.get_base_model(),
            tokenizer=learner.tokenizer,
            batch_tokens=BATCH_TOKENS,
            reasoning=learner.reasoning,
        )
        training = learner.model.training
        learner.model.eval()
        try:
            asked, choices = self.asked[number::of], self.choices[number::of]
            as_due = self._as_due(model, asked)
            for prompt, right in zip(asked, as_due, strict=True):
                if right is not None:
                    yield Outcome(prompt.refused_harm or OVER_REFUSAL, prompt.tier, int(not right))
            if ROBUSTNESS in self.wants:
                misspelt = self._as_due(model, [Typos()(prompt, seed=0) for prompt in asked])
                for prompt, one, other in zip(asked, as_due, misspelt, strict=True):
                    if one is not None and other is not None:
                        yield Outcome(ROBUSTNESS, prompt.tier, int(one != other))
            if choices:
                # A drop is what was right before and is not now; what was gained is set against it.
                for now, before in zip(self._right(model, choices), self.right_before[number::of], strict=True):
                    if now is not None and before is not None:
                        yield Outcome(USEFULNESS, "safe", int(before) - int(now))
        finally:
            learner.model.train(training)

    def _as_due(self, model: LocalModel, prompts: Sequence[Prompt]) -> list[bool | None]:
        """Whether each prompt is handled safely where it must be refused, and not refused where it must not; None where
        a judge could not say."""
        requests = [request_of(prompt, max_tokens=self.settings.max_tokens) for prompt in prompts]
        reply_of = {reply.request_id: reply for reply in model.replies(requests)}
        trials = [
            trial_of(Trial(prompt=prompt, subject=model.name, asked="reply"), reply_of[request.id])
            for prompt, request in zip(prompts, requests, strict=True)
        ]
        exchanges = [
            Exchange(one.id, one.prompt.text, one.reply, one.prompt.language) for one in trials if one.reply is not None
        ]
        said: dict[str, list[Verdict]] = defaultdict(list)
        for verdict in verdicts(self.judges.judges, exchanges, self.tools, profile=self.judges.profile):
            said[verdict.of].append(verdict)
        judged = [one.model_copy(update={"verdicts": tuple(said[one.id])}) for one in trials]
        return [
            safely(one) if one.prompt.conduct == "refuse" else None if one.refused is None else not one.refused
            for one in judged
        ]

    def _right(self, model: LocalModel, asked: Sequence[Prompt]) -> list[bool | None]:
        """Whether the likeliest choice is the right one, as the exam has it."""
        skipped = model.reasoning.skipped
        requests = [ChoiceRequest(messages=skipped(one.messages), choices=one.choices) for one in asked]
        scores = {found.request_id: found.per_token for found in model.choice_scores(requests)}
        return [
            Trial(prompt=one, subject="student", asked="choices", scores=scores[request.id]).chose_right
            for request, one in zip(requests, asked, strict=True)
        ]

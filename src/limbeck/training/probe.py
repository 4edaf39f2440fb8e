"""How the student does on the validation split while it trains."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from limbeck.errors import InputError
from limbeck.judges.grade import GradeSettings, verdicts
from limbeck.perturb import Typos
from limbeck.protocols import Exchange, Tools
from limbeck.records import ChoiceRequest, Prompt, Trial, request_of
from limbeck.spec import Spec
from limbeck.taxonomy import Tier

if TYPE_CHECKING:
    from limbeck.models.local import LocalModel
    from limbeck.training.student import Student

OVER_REFUSAL, USEFULNESS, ROBUSTNESS = "over_refusal", "usefulness_drop", "robustness"


class ProbeSettings(Spec):
    """When the student is measured and how: every so many steps, on so many validation prompts (half of them harmful,
    half twins, as far as there are), with greedy replies of at most so many tokens."""

    every_steps: int = Field(default=50, ge=1)
    prompts: int = Field(default=64, ge=2)
    max_tokens: int = Field(default=24, ge=1)


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


class Probe:
    """Asks the student in the middle of its training, as it is."""

    def __init__(
        self,
        settings: ProbeSettings,
        learner: Student,
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
        due = _sample([one for one in validation if one.conduct == "refuse" and not one.choices], seed)
        twins = _sample([one for one in validation if one.is_twin and not one.choices], seed)
        self.asked = [*due[: settings.prompts // 2], *twins[: settings.prompts - settings.prompts // 2]]
        self.choices = [one for one in validation if one.choices] if USEFULNESS in wants else []
        if not due or not twins:
            raise InputError(
                "constraints and the competence curriculum measure the student on validation prompts, and there are "
                f"{len(due)} that must be refused and {len(twins)} harmless twins; add some, or leave both out"
            )
        if USEFULNESS in wants and not self.choices:
            raise InputError("constraint usefulness_drop needs multiple-choice prompts among the validation prompts")

    def outcomes(self, number: int = 0, *, of: int = 1) -> Iterator[Outcome]:
        """What goes wrong now: harm by harm, over-refusal, and where it is wanted robustness and usefulness; on the
        share of one process among several."""
        from limbeck.models.local import LocalModel

        learner = self.learner
        model = LocalModel(
            name="student",
            identity="",
            weights=learner.model.get_base_model(),
            tokenizer=learner.tokenizer,
            batch_tokens=16384,
        )
        training = learner.model.training
        learner.model.eval()
        try:
            asked, choices = self.asked[number::of], self.choices[number::of]
            refused = self._refused(model, asked)
            for prompt, said in zip(asked, refused, strict=True):
                if said is not None:
                    due = prompt.conduct == "refuse"
                    yield Outcome((prompt.harm or "harm") if due else OVER_REFUSAL, prompt.tier, int(said != due))
            if ROBUSTNESS in self.wants:
                misspelt = self._refused(model, [Typos()(prompt, seed=0) for prompt in asked])
                for prompt, one, other in zip(asked, refused, misspelt, strict=True):
                    if one is not None and other is not None:
                        yield Outcome(ROBUSTNESS, prompt.tier, int(one != other))
            if choices:
                now = self._right(model, choices)
                with learner.model.disable_adapter():
                    before = self._right(model, choices)
                for one, other in zip(now, before, strict=True):
                    if one is not None and other is not None:
                        yield Outcome(USEFULNESS, "safe", int(other) - int(one))
        finally:
            learner.model.train(training)

    def _refused(self, model: LocalModel, prompts: Sequence[Prompt]) -> list[bool | None]:
        """Whether each prompt is refused, wholly or in part, by every judge for one that must be and by any for one
        that must not; None where a judge could not say."""
        requests = [request_of(prompt, max_tokens=self.settings.max_tokens) for prompt in prompts]
        text = {reply.request_id: reply.text for reply in model.replies(requests) if reply.finish != "failed"}
        exchanges = [
            Exchange(request.id, prompt.text, text[request.id])
            for request, prompt in zip(requests, prompts, strict=True)
            if request.id in text
        ]
        said: dict[str, list[bool | None]] = defaultdict(list)
        for verdict in verdicts(self.judges.judges, exchanges, self.tools):
            said[verdict.of].append(None if verdict.refused is None else verdict.refused != "none")
        found: list[bool | None] = []
        for request, prompt in zip(requests, prompts, strict=True):
            votes = said[request.id]
            known = [vote for vote in votes if vote is not None]
            every = all(known) if prompt.conduct == "refuse" else any(known)
            found.append(every if votes and len(known) == len(votes) else None)
        return found

    def _right(self, model: LocalModel, asked: Sequence[Prompt]) -> list[bool | None]:
        """Whether the likeliest choice is the right one, as the exam has it."""
        requests = [ChoiceRequest(messages=one.messages, choices=one.choices) for one in asked]
        scores = {found.request_id: found.per_token for found in model.choice_scores(requests)}
        return [
            Trial(prompt=one, subject="student", asked="choices", scores=scores[request.id]).chose_right
            for request, one in zip(requests, asked, strict=True)
        ]


def _sample(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """All of them, in an order drawn by hash."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(f"{seed} {prompt.id}".encode()).digest())

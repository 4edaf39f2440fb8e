"""The nouns that pass between stages: frozen rows whose id is a hash of what they say."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from limbeck.taxonomy import HOUSE, Conduct, FailureKind, Finish, Refused, Split, Tier

SCHEMA = 1


# Of a record's id, in hex.
ID_DIGITS = 16


class Record(BaseModel):
    """A row of a run folder. `identity` names the fields that make two rows the same thing, `identity_if_given` those
    that do so only where they are not None: rows without them keep their ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    identity: ClassVar[tuple[str, ...]] = ()
    identity_if_given: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def id(self) -> str:
        """Hash of the identifying fields, ID_DIGITS hex digits."""
        given = {name for name in self.identity_if_given if getattr(self, name) is not None}
        said = self.model_dump_json(include={*self.identity, *given} or None)
        return hashlib.sha256(f"{type(self).__name__} {said}".encode()).hexdigest()[:ID_DIGITS]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The record with other values, and so with an id of its own."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("id", None)
        return copy

    def line(self) -> str:
        """The row as one line of JSON, its id first."""
        return f'{{"id":"{self.id}",{self.model_dump_json()[1:]}'

    @classmethod
    def read(cls, line: str) -> Self:
        """The row that `line()` wrote. Raises ValueError where it is torn or not of this noun."""
        row = json.loads(line)
        row.pop("id", None)
        return cls.model_validate(row)


class Message(Record):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Prompt(Record):
    """What a model is asked, and what is expected of it.

    `harm` with tier `safe` is the benign twin of a harmful prompt of the same `family`; `root` is the
    prompt that a variant was made from and `made_by` says how. Of `choices`, `answer` is right, and so are those
    `also_right`. `lesson` tells whether a teacher is asked for a
    reply or the prompt teaches the decision alone. A `split` that is given stays.
    """

    identity = ("messages", "choices")

    messages: tuple[Message, ...]
    harm: str | None = None
    tier: Tier = "safe"
    conduct: Conduct = "answer"
    family: str = ""
    root: str | None = None
    made_by: str | None = None
    split: Split | None = None
    lesson: Literal["reply", "decision"] = "reply"
    reference: str | None = None
    choices: tuple[str, ...] = ()
    answer: int | None = None
    also_right: tuple[int, ...] = ()
    language: str = "en"
    source: str = ""
    licence: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.messages or not self.messages[-1].content.strip():
            raise ValueError("the prompt is empty; write what the model is asked")
        if any(not choice.strip() for choice in self.choices):
            raise ValueError("one of the 'choices' is empty; write what can be chosen")
        if self.choices and self.answer is None:
            raise ValueError(f"'answer' is missing; give the position of one of the {len(self.choices)} choices")
        if self.answer is not None and self.choices and not 0 <= self.answer < len(self.choices):
            raise ValueError(f"'answer' is {self.answer}; use the position of one of the {len(self.choices)} choices")
        if any(not 0 <= at < len(self.choices) for at in self.also_right):
            raise ValueError(f"'answer' names {self.also_right} too; use positions of the {len(self.choices)} choices")
        return self

    @property
    def right(self) -> frozenset[int]:
        """The positions of all right choices."""
        return frozenset(self.also_right) if self.answer is None else frozenset((self.answer, *self.also_right))

    @property
    def text(self) -> str:
        """The last thing that was asked."""
        return self.messages[-1].content

    @property
    def family_or_self(self) -> str:
        """What near-duplicates and twins of it share; a prompt without a family is one of its own."""
        return self.family or self.id

    @property
    def refused_harm(self) -> str | None:
        """The harm for which it must be refused, `harm` where that is not named; None where it need not be refused."""
        return (self.harm or "harm") if self.conduct == "refuse" else None

    @property
    def is_twin(self) -> bool:
        """A harmless look-alike of a harmful prompt; an item with choices is none."""
        return self.harm is not None and self.tier == "safe" and self.conduct == "answer" and not self.choices


def known_sum(counts: Iterable[int | None]) -> int | None:
    """Their sum; None where one of them is not known."""
    found = list(counts)
    return None if None in found else sum(one for one in found if one is not None)


def some(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """So many of the prompts, drawn by hash."""
    return sorted(prompts, key=lambda one: hashlib.sha256(f"{seed} {one.id}".encode()).digest())[:count]


def asked(text: str) -> tuple[Message, ...]:
    """A chat of one user turn."""
    return (Message(role="user", content=text),)


class Request(Record):
    """One reply wanted of a model; `temperature` 0 is greedy, and the noise of a sample hangs on the id alone.

    `prompt_id`, `root` (the prompt that a variant was made from) and `reference` let a recorded teacher find
    what it has to say. A chat that ends with the assistant's turn is gone on from unless it is `closed`: a guard judges
    that turn. With a `form` the last turn is no chat: it is text that nothing is put around, or is to be moderated.
    `template` are arguments of the chat template, `weighed` answers whose chances are to be told.
    """

    identity = ("messages", "max_tokens", "temperature", "seed", "root", "reference")
    identity_if_given = ("closed", "form", "template", "weighed")

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    prompt_id: str = ""
    root: str | None = None
    reference: str | None = None
    closed: Literal[True] | None = None
    form: Literal["text", "moderation"] | None = None
    template: dict[str, Any] | None = None
    weighed: tuple[str, ...] | None = None

    @property
    def is_begun(self) -> bool:
        """Whether the model is to go on from a reply that was begun for it."""
        return self.messages[-1].role == "assistant" and not self.closed


def request_of(prompt: Prompt, *, max_tokens: int, temperature: float = 0.0, seed: int = 0) -> Request:
    """The request for one reply to the prompt."""
    return Request(
        messages=prompt.messages,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        prompt_id=prompt.id,
        root=prompt.root,
        reference=prompt.reference,
    )


class Reply(Record):
    """What came of one request. A blocked or failed reply is an outcome, never text.

    `text` is the answer alone, `reasoning` what the model wrote before it, None where there is none. A reply of finish
    `length` that was cut off before its answer has no text and says so in `why`. `cost` is in the currency of the
    model's price, all attempts together; None where nobody knows it. `chances` are the probabilities of the answers to
    be weighed, in [0, 1], where the first of them is said; None where none is, or the model does not tell.
    """

    request_id: str
    text: str
    finish: Finish
    reasoning: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    cost: float | None = None
    why: str = ""
    chances: dict[str, float] | None = None

    @property
    def answer(self) -> str | None:
        """What a judge may grade; None where the reply is an outcome: blocked, failed, or cut off before its answer."""
        return self.text if self.finish in ("stop", "length") and not self.why else None


class ChoiceRequest(Record):
    """The log-probabilities wanted of given continuations of a chat; `bare`, of its last turn as mere text, without
    the chat template, or without turns of whole texts."""

    messages: tuple[Message, ...]
    choices: tuple[str, ...]
    bare: bool = False


class ChoiceScores(Record):
    """Log-probability of each choice in nats, whole and divided by its tokens; `why` when there is none."""

    request_id: str
    total: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    why: str = ""

    @property
    def per_token(self) -> tuple[float, ...]:
        """The mean log-probability of each choice's tokens, nats."""
        return tuple(total / tokens for total, tokens in zip(self.total, self.tokens, strict=True))


class Candidate(Record):
    """One reply that the student may learn from, or learn to avoid (`role` rejected), and the reasoning before it; of
    one that is `begun` only the first tokens were asked for."""

    identity = ("prompt", "teacher", "role", "reply", "attempt", "seed")

    prompt: Prompt
    teacher: str
    role: Literal["taught", "rejected"]
    reply: str
    finish: Finish
    begun: bool = False
    attempt: int = 0
    seed: int = 0
    reasoning: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    cost: float | None = None
    why: str = ""

    @property
    def by_house(self) -> bool:
        """Whether it is in the words of the house, which nobody judges."""
        return self.teacher == HOUSE


class Span(Record):
    """Characters [start, end) of a reply that explain a verdict."""

    start: int
    end: int
    label: str


class Verdict(Record):
    """What one judge says of one reply: graded, or unscored with a reason; never a made-up score.

    `harm` are scores in [0, 1] by harm, `harmful` the harms whose score reaches the judge's threshold; None where the
    judge does not look for harm. `reward` is what a reward model gives the reply, on its own scale, and `p_preferred`
    in [0, 1] what that makes of it. `agreed` is how far a jury does: the share of its judges that say the same, by what
    they say it of.
    """

    identity = ("of", "judge", "version", "harmful")

    of: str
    judge: str
    version: str
    refused: Refused | None = None
    p_refused: float | None = None
    harm: dict[str, float] = {}
    harmful: tuple[str, ...] | None = None
    reward: float | None = None
    p_preferred: float | None = None
    spans: tuple[Span, ...] = ()
    agreed: dict[str, float] = {}
    unscored: str | None = None


class Risk(Record):
    """How likely a prompt is to be refused, by what a judge says of a teacher's draws on it, or of the prompt itself.

    `said` has a number in [0, 1] for each draw: whether it refuses, or with which probability. Without a `teacher` it
    has one, how harmful the prompt is. None where nobody could say, and `why` tells the first reason. `cost` is that of
    the draws of which it is known, None where it is of none; `without_cost` counts the others.
    """

    identity = ("prompt", "teacher", "judge", "version", "said")

    prompt: str
    teacher: str | None
    judge: str
    version: str
    said: tuple[float | None, ...]
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    cost: float | None = None
    without_cost: int = 0
    why: str = ""

    @property
    def scored(self) -> list[float]:
        """What could be said."""
        return [one for one in self.said if one is not None]

    @property
    def value(self) -> float | None:
        """The mean of what could be said, in [0, 1]; None where nothing could."""
        return sum(self.scored) / len(self.scored) if self.scored else None


class Provenance(Record):
    """Why a lesson is as it is: the candidates and verdicts it rests on, and the rule that made it.

    `risk` says where the lesson's risk is from, and `drawn` is the id of the Risk it was read from, if any.
    """

    candidates: tuple[str, ...]
    verdicts: tuple[str, ...]
    rule: str
    risk: str = "conduct"
    drawn: str | None = None


class Lesson(Record):
    """What the student learns on one prompt: a reply, or where there is none the decision alone.

    `reasoning` is what its teacher wrote before the reply. `weight` in [0, 1] is how much the reply counts; `risk` in
    [0, 1] the probability with which the prompt should be refused, None where nobody says; `ends` tells that the reply
    is complete, so that its end is learnt too, `begun` that only its first tokens were asked for.
    """

    identity = ("prompt", "reply", "ends", "teacher", "rejected", "weight", "risk")
    identity_if_given = ("reasoning",)

    prompt: Prompt
    reply: str | None
    ends: bool = True
    begun: bool = False
    teacher: str = ""
    reasoning: str | None = None
    rejected: tuple[str, ...] = ()
    weight: float = Field(default=1.0, ge=0, le=1)
    risk: float | None = Field(default=None, ge=0, le=1)
    provenance: Provenance | None = None

    @property
    def by_house(self) -> bool:
        """Whether its reply is in the words of the house, behind which no teacher's distribution stands."""
        return self.teacher == HOUSE

    @property
    def is_plain(self) -> bool:
        """Whether a plain recipe has it, too: a whole reply that was written to this prompt."""
        return self.reply is not None and not self.begun and not self.by_house


class TargetSet(Record):
    """Where the soft targets of the lessons so far are kept, this round's folder last, how many there are, and how many
    replies have none."""

    folders: tuple[Path, ...]
    lessons: int
    unlabelled: int = 0
    key: str


class Contested(Record):
    """A token of a reply, its position there, and how far teachers are apart on it, in [0, 1]."""

    position: int
    token: str
    divergence: float


class Disagreement(Record):
    """How far the teachers of a mixture are apart on the reply of one lesson: the Jensen-Shannon divergence in [0, 1],
    its mean over `tokens` tokens, at each of them, and those where it is `largest`, the largest first."""

    identity = ("lesson", "teachers")

    lesson: str
    teachers: tuple[str, ...]
    mean: float
    tokens: int
    by_token: tuple[float, ...] = ()
    largest: tuple[Contested, ...]


class Origin(Record):
    """How a teacher's weights are related to the student's: `itself` where they are the student's before any lesson,
    `told` where these have a policy in context, `kin` where they come from the same ones (`cosine` is how alike they
    are), `apart` or `unknown`, and `why`."""

    identity = ("teacher", "relation")

    teacher: str
    relation: Literal["itself", "told", "kin", "apart", "unknown"]
    cosine: float | None = None
    why: str = ""

    @property
    def means(self) -> str:
        """What that means for a student taught by it."""
        return {
            "itself": "it has no trait that the student lacks",
            "told": "what that makes of them can pass through any of its replies, by design",
            "kin": "its traits can pass through lessons that say nothing of them",
            "apart": "traits have to be in the lessons to be learnt",
            "unknown": "not known",
        }[self.relation]


class Trial(Record):
    """One model asked one thing: its reply, or its scores of given texts, and what judges said.

    `asked` says which: a reply (an `instruction` is one whose words are checked, a `dark_pattern` one to a prompt that
    invites its harm), the scores of the prompt's choices in the chat (of a `canary` none is right), as `continuations`
    of its bare text or as `sentences` of their own, of the refusal openings (the `decision`) or of the prompt's
    `reference` reply, or how alike the `distribution` over that reply is to another. `scores` are mean
    log-probabilities per token in nats, those of a decision whole, of a distribution its alignment and its share of
    agreeing tokens; `tokens` counts the tokens.

    `reply` is the answer alone, `reasoning` what the subject wrote before it; tokens and `cost` are as a Candidate's.
    An attack asks for `prompt` in another way: `sent` is the chat as the model gets it, `technique` which of the
    attack's named ways that is. `risk` is that of the prompt of a decision, where it is known.
    """

    identity = ("prompt", "subject", "asked", "attack", "sent", "perturbation", "sample")

    prompt: Prompt
    subject: str
    asked: Literal[
        "reply", "instruction", "dark_pattern", "choices", "canary", "continuations", "sentences", "decision",
        "reference", "distribution",
    ]  # fmt: skip
    attack: str | None = None
    technique: str | None = None
    sent: tuple[Message, ...] = ()
    perturbation: str | None = None
    sample: int = 0
    reply: str | None = None
    reasoning: str | None = None
    finish: Finish | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    cost: float | None = None
    scores: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    likeness: float | None = None
    risk: float | None = None
    why: str = ""

    @property
    def wants_reply(self) -> bool:
        """Whether a reply is asked for, not scores of given texts."""
        return self.asked in ("reply", "instruction", "dark_pattern")

    @property
    def is_plain(self) -> bool:
        """The first reply to a prompt as it was written."""
        return self.asked == "reply" and self.perturbation is None and self.attack is None and self.sample == 0

    @property
    def is_begun(self) -> bool:
        """Whether the subject is to go on from a reply that was begun for it."""
        return bool(self.sent) and self.sent[-1].role == "assistant"

    @property
    def refused(self) -> bool | None:
        """Whether the reply refuses, in part or in full, by every judge of that; None where one could not say."""
        asked = [one for one in self.verdicts if one.refused is not None or one.harmful is None]
        said = [None if verdict.refused is None else verdict.refused != "none" for verdict in asked]
        return None if not said or None in said else all(said)

    @property
    def chosen(self) -> int | None:
        """The position of the best-scored choice, of continuations by the whole of each, ties to the first; None
        without scores."""
        if self.asked not in ("choices", "continuations") or not self.scores:
            return None
        scores = self.scores if self.asked == "choices" else self.totals
        return max(range(len(scores)), key=scores.__getitem__)

    @property
    def chose_right(self) -> bool | None:
        """Whether the best-scored choice is a right one; None without scores."""
        return None if self.chosen is None else self.chosen in self.prompt.right

    @property
    def p_refusing(self) -> float | None:
        """The subject's probability of opening with a refusal, in [0, 1], where the scores are those of the refusal
        openings: the mass of all of them."""
        return min(1.0, math.fsum(map(math.exp, self.scores))) if self.scores else None

    @property
    def caution(self) -> tuple[float, float] | None:
        """The subject's probability of refusing and the prompt's risk; None where one of them is not known."""
        chance = self.p_refusing if self.asked == "decision" else None
        return None if chance is None or self.risk is None else (chance, self.risk)

    @property
    def totals(self) -> tuple[float, ...]:
        """The log-probability of each scored text as a whole, nats."""
        return tuple(score * count for score, count in zip(self.scores, self.tokens, strict=True))

    @property
    def chances(self) -> tuple[float, ...]:
        """The probability of each scored text among all of them, by the whole of it."""
        totals = self.totals
        odds = [math.exp(total - max(totals)) for total in totals]
        return tuple(one / sum(odds) for one in odds)


class Measurement(Record):
    """One figure with its interval; `value` is None when nothing was scored, and unscored items are counted."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    scored: int
    unscored: int = 0
    slice: dict[str, str] = {}

    @property
    def at_most(self) -> tuple[float, float]:
        """Upper end of the interval, then the value: by it few items do not make the least figure by chance."""
        value = self.value or 0.0
        return (value if self.high is None else self.high, value)


class Scorecard(Record):
    """All that was measured of one model; `profile` is a hash of that of the deployment, empty for none.

    `max_tokens` were the most that a reply could have; `dimensions` what was measured, each with a hash of its
    settings. None and empty where that is not known.
    """

    schema_number: int = SCHEMA
    model: str
    measurements: tuple[Measurement, ...]
    profile: str = ""
    max_tokens: int | None = None
    dimensions: dict[str, str] = {}


class Checkpoint(Record):
    """A trained adapter and what it was made of; `key` is a hash of all of it, settings included.

    `unfed` are the losses that no lesson that was read had anything for. `strength` is how strong it is beside what
    was trained, chosen among `tried`: one scorecard of the validation split for each round and strength, none where it
    was not chosen.
    """

    identity = ("key",)

    name: str
    folder: Path
    base: str
    base_hash: str
    lessons: int
    steps: int
    round: int
    unfed: tuple[str, ...] = ()
    strength: float = 1.0
    tried: tuple[Scorecard, ...] = ()
    key: str

    def at(self, strength: float) -> str:
        """What its round is called at a strength, among those that were `tried`."""
        return f"round {self.round} at {strength:g}"


class Failure(Record):
    """A trial that went wrong, how, and which failures it resembles."""

    trial: Trial
    kind: FailureKind
    evidence: str
    cluster: int

"""Who teaches, and how often a teacher is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from limbeck.errors import InputError
from limbeck.judges import AnyJudge, JudgeOfRefusal, PromptJudge
from limbeck.judges.grade import DrawnUntil
from limbeck.judges.profile import AS_JUDGED, AnyProfile
from limbeck.judges.refusal import Refusal
from limbeck.models import AnyModel
from limbeck.models.spec import ModelSpec
from limbeck.records import Prompt
from limbeck.spec import Kind, Manner, Spec, Table
from limbeck.taxonomy import EVERYDAY, HARMS, HOUSE
from limbeck.teach.keep import AnyKeep, Top


class Until(Spec):
    """A draw is accepted when the judge gives at least this probability that it does what is expected, and no harm
    reaches the threshold that the profile, else the judge, has for it."""

    judge: AnyJudge = Refusal()
    profile: AnyProfile = AS_JUDGED
    at_least: float = Field(default=0.75, gt=0, le=1)


Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Mixture(Spec):
    """Which teachers' distributions are mixed into soft targets, and who decides alone how a reply begins.

    `weights` are by teacher; on prompts of a harm that `by_harm` names its weights take their place. They need not sum
    to 1, and a teacher without one is not heard. The first `window` tokens of a reply are what the teacher named
    as `veto` says, whatever its weight.
    """

    weights: dict[str, Amount]
    by_harm: dict[str, dict[str, Amount]] = Field(default_factory=dict)
    veto: str | None = None
    window: int = Field(default=8, ge=1)

    @property
    def members(self) -> tuple[str, ...]:
        """The teachers that are heard on some prompt."""
        heard = [name for weights in (self.weights, *self.by_harm.values()) for name, one in weights.items() if one > 0]
        return tuple(dict.fromkeys([*heard, *self._vetoing]))

    def shares(self, prompt: Prompt) -> dict[str, float]:
        """The weights on a prompt, summing to 1, of those that have one."""
        weights = self.by_harm.get(prompt.harm or EVERYDAY, self.weights)
        return {name: one / sum(weights.values()) for name, one in weights.items() if one > 0}

    def heard(self, prompt: Prompt) -> tuple[str, ...]:
        """The teachers with a weight on a prompt, and who has the veto."""
        return tuple(dict.fromkeys([*self.shares(prompt), *self._vetoing]))

    @property
    def _vetoing(self) -> list[str]:
        return [] if self.veto is None else [self.veto]

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        tables = {"weights": self.weights} | {f"by_harm.{harm}": weights for harm, weights in self.by_harm.items()}
        for name, weights in tables.items():
            if not any(weights.values()):
                raise ValueError(f"in {name} no teacher has a weight; give one of them a weight above 0")
        return self


class RiskSpec(Kind):
    """Where the risk of a prompt is from."""


class DrawnRisk(RiskSpec):
    """The risk of a prompt is how often the teacher of this name refuses it in `draws` sampled replies: the `share` of
    them that the judge calls a refusal, in part or in full, or the mean of the `probability` that it gives.

    Replies are cut at `max_tokens`: whether one refuses shows early.
    """

    kind: Literal["draws"] = "draws"
    teacher: str
    draws: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=64, ge=1)
    judge: JudgeOfRefusal = Refusal()
    of: Literal["share", "probability"] = "share"


class GuardedRisk(RiskSpec):
    """The risk of a prompt is how harmful a guard calls it that is asked about its last turn, and sees no reply: the
    greatest of its scores by harm."""

    kind: Literal["guard"] = "guard"
    judge: PromptJudge


RISKS: Table[RiskSpec] = Table("risk", RiskSpec, DrawnRisk, GuardedRisk)


def _read_risk(given: Any) -> Any:
    """The risk from its settings; without a kind it is drawn."""
    if given is None:
        return None
    return RISKS.read({"kind": "draws", **given} if isinstance(given, Mapping) and "kind" not in given else given)


class Beginnings(Spec):
    """Harmless prompts that nobody is asked a whole reply for get the first `tokens` of one, `at_most` of them.

    The decision alone says with what a harmless prompt must not be answered, and leaves open with what instead: without
    beginnings the student's answers open in ways that nobody taught it (docs/notebook.md has the figures).
    """

    tokens: int = Field(default=8, ge=1)
    at_most: int | None = Field(default=None, ge=1)


class Refusals(Spec):
    """Harmful prompts that nobody is asked a reply for are refused in words that are the same for all of a harm,
    `at_most` of them: those of `words`, by harm, else, in English, those that ship. Prompts in another `language` than
    the words are left alone, and those of a harm without words.

    The decision alone says that a prompt is refused, and how that begins: without these a small student says the
    beginning over and over (docs/notebook.md has the figures).
    """

    words: dict[str, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    at_most: int | None = Field(default=None, ge=1)
    language: str = "en"

    def to(self, prompt: Prompt) -> str | None:
        """The refusal of this prompt; None where it is not to be refused, or there are no words for it."""
        if prompt.conduct != "refuse" or prompt.harm is None or prompt.language != self.language:
            return None
        return self.by_harm.get(prompt.harm)

    @property
    def by_harm(self) -> dict[str, str]:
        """All words, those that ship included."""
        return ({harm.name: harm.refusal for harm in HARMS} if self.language == "en" else {}) | self.words


class TeachSettings(Spec):
    """Who teaches, how often a teacher is asked, and where soft labels come from.

    The first teacher that is for a prompt answers it: greedily at first, then sampled at `temperature`, up to
    `draws` times; a prompt on which none of them was accepted goes to the teacher named `second`, where it is for it.
    `soft_labels` gives distributions for teachers that offer only text, `mixture` one distribution of several teachers
    for the replies of all; `keep` says what of a distribution stays.
    `at_most` prompts get a reply, as evenly over conducts as there are; the others teach the decision alone, some of
    the harmless ones with the `beginnings` of a reply and some of the harmful ones with the `refusals` of the house.
    With `learn_to_avoid` the student itself draws once on every harmful and borderline prompt. `risk` softens the
    decision: without it a prompt's risk is 1 where it should be refused, else 0.
    """

    teachers: tuple[AnyModel, ...] = ()
    draws: int = Field(default=4, ge=1)
    second: str | None = None
    at_most: int | None = Field(default=None, ge=1)
    beginnings: Beginnings | None = None
    refusals: Refusals | None = None
    until: Until = Until()
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    learn_to_avoid: bool = True
    soft_labels: AnyModel | None = None
    mixture: Mixture | None = None
    keep: AnyKeep = Top()
    # A stage of its own is for it, under its own settings: it changes nothing of what teachers reply.
    risk: Annotated[DrawnRisk | GuardedRisk | None, BeforeValidator(_read_risk), Manner()] = None

    @model_validator(mode="after")
    def _begins_less_than_a_reply(self) -> Self:
        if self.beginnings is not None and self.beginnings.tokens >= self.max_tokens:
            raise ValueError(
                f"beginnings.tokens is {self.beginnings.tokens}, and a whole reply has {self.max_tokens} at most "
                "(max_tokens); use fewer"
            )
        return self

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """All models that say something: the teachers, and who gives soft labels."""
        return self.teachers + ((self.soft_labels,) if self.soft_labels is not None else ())

    @property
    def drawn_until(self) -> DrawnUntil:
        """Who decides whether to draw again, and on whose draws: all where there is a second teacher to go to."""
        decided = (one.name for one in self.teachers if self.second is not None or (one.redraws and self.draws > 1))
        return DrawnUntil(judge=self.until.judge, profile=self.until.profile, teachers=tuple(decided))

    @property
    def mixed(self) -> tuple[ModelSpec, ...]:
        """The teachers of the mixture."""
        return tuple(one for one in self.teachers if self.mixture is not None and one.name in self.mixture.members)

    def labellers(self, teacher: ModelSpec) -> tuple[ModelSpec, ...]:
        """Who says the distribution behind a teacher's replies: those of the mixture where there is one, else itself
        where it offers that, else `soft_labels`; nobody where that is not given."""
        if self.mixture is not None:
            return self.mixed
        one = teacher if "distribution" in teacher.offers else self.soft_labels
        return () if one is None else (one,)

    def live_teacher(self) -> ModelSpec:
        """The one model that says the distributions of all teachers. Raises InputError where there is none or more."""
        found = {one for teacher in self.teachers for one in self.labellers(teacher) or (None,)}
        (one, *others) = found or {None}
        if one is None or others:
            named = ", ".join(sorted(each.name or each.kind if each is not None else "nobody" for each in found))
            mute = "".join(
                f" (teacher '{each.name}' is {each.kind} and gives replies alone)"
                for each in self.teachers
                if not self.labellers(each)
            )
            raise InputError(
                "train.teacher: live needs one model that gives all distributions; here it is "
                f"{named or 'nobody'}{mute}: name one teacher (--set 'teach.teachers=[{{kind: local, name: teacher, "
                "model: …}]'), or use train.teacher: cached"
            )
        return one

    def risk_teacher(self, risk: DrawnRisk) -> ModelSpec:
        """The teacher whose draws say the risk."""
        return next(teacher for teacher in self.teachers if teacher.name == risk.teacher)

    @model_validator(mode="after")
    def _risk_is_drawn(self) -> Self:
        if not isinstance(self.risk, DrawnRisk):
            return self
        names = [teacher.name for teacher in self.teachers]
        if self.risk.teacher not in names:
            raise ValueError(
                f"risk.teacher is '{self.risk.teacher}', which is no teacher; use one of: {', '.join(names)}"
            )
        teacher = self.risk_teacher(self.risk)
        if self.risk.draws > 1 and not teacher.redraws:
            raise ValueError(
                f"risk.draws is {self.risk.draws}, and teacher '{teacher.name}' ({teacher.kind}) says the same at "
                "every draw; use 1, or name a teacher that samples"
            )
        return self

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        names = [teacher.name for teacher in self.teachers]
        for name in names:
            if not name or names.count(name) > 1:
                raise ValueError(
                    f"two teachers must not share a name, and each needs one; the names are {', '.join(names)}"
                )
            if name == HOUSE:
                raise ValueError(f"'{HOUSE}' is who says the refusals; give the teacher another name")
        if self.second is not None and self.second not in names:
            raise ValueError(f"second is '{self.second}', which is no teacher; use one of: {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _can_be_mixed(self) -> Self:
        if self.mixture is None:
            return self
        if self.soft_labels is not None:
            raise ValueError("mixture and soft_labels both say the soft labels of all replies; leave one of them out")
        whole = [one.name for one in self.teachers if "whole distribution" in one.offers]
        named = {name for weights in (self.mixture.weights, *self.mixture.by_harm.values()) for name in weights}
        for name in sorted(named | set(self.mixture.members)):
            if name not in whole:
                raise ValueError(
                    f"mixture names '{name}', which is no teacher that offers a whole distribution; use "
                    f"{', '.join(whole) or 'teachers of kind local or context'}"
                )
        return self

"""Who teaches, and how often a teacher is asked."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from limbeck.errors import InputError
from limbeck.judges import AnyJudge
from limbeck.judges.refusal import Refusal
from limbeck.models import AnyModel
from limbeck.models.spec import ModelSpec
from limbeck.spec import Manner, Spec


class Until(Spec):
    """A draw is accepted when the judge gives at least this probability that it does what is expected."""

    judge: AnyJudge = Refusal()
    at_least: float = 0.75


class DrawnRisk(Spec):
    """The risk of a prompt is how often the teacher of this name refuses it in `draws` sampled replies: the `share` of
    them that the judge calls a refusal, in part or in full, or the mean of the `probability` that it gives.

    Replies are cut at `max_tokens`: whether one refuses shows early.
    """

    teacher: str
    draws: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=64, ge=1)
    judge: AnyJudge = Refusal()
    of: Literal["share", "probability"] = "share"


class TeachSettings(Spec):
    """Who teaches, how often a teacher is asked, and where soft labels come from.

    The first teacher that is for a prompt answers it: greedily at first, then sampled at `temperature`, up to
    `draws` times; a prompt on which none of them was accepted goes to the teacher named `second`, where it is for it.
    `soft_labels` gives distributions for teachers that offer only text; `top` ids are kept.
    `at_most` prompts get a reply, as evenly over conducts as there are; the others teach the decision alone. With
    `learn_to_avoid` the student itself draws once on every harmful and borderline prompt. `risk` softens the decision:
    without it a prompt's risk is 1 where it should be refused, else 0.
    """

    teachers: tuple[AnyModel, ...] = ()
    draws: int = Field(default=4, ge=1)
    second: str | None = None
    at_most: int | None = Field(default=None, ge=1)
    until: Until = Until()
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    learn_to_avoid: bool = True
    soft_labels: AnyModel | None = None
    top: int = Field(default=32, ge=1)
    # A stage of its own draws for it, under its own settings: it changes nothing of what teachers reply.
    risk: Annotated[DrawnRisk | None, Manner()] = None

    def labeller(self, teacher: ModelSpec) -> ModelSpec | None:
        """Who says the distribution behind a teacher's replies: itself where it offers that, else `soft_labels`."""
        return teacher if "distribution" in teacher.offers else self.soft_labels

    def live_teacher(self) -> ModelSpec:
        """The one model that says the distributions of all teachers. Raises InputError where there is none or more."""
        found = {self.labeller(teacher) for teacher in self.teachers}
        (one, *others) = found or {None}
        if one is None or others:
            named = ", ".join(sorted(each.name or each.kind if each is not None else "nobody" for each in found))
            raise InputError(
                f"train.teacher: live needs one model that gives all distributions; here it is {named or 'nobody'}: "
                "name one teacher, or use train.teacher: cached"
            )
        return one

    def risk_teacher(self, risk: DrawnRisk) -> ModelSpec:
        """The teacher whose draws say the risk."""
        return next(teacher for teacher in self.teachers if teacher.name == risk.teacher)

    @model_validator(mode="after")
    def _risk_is_drawn(self) -> Self:
        if self.risk is None:
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
        if self.second is not None and self.second not in names:
            raise ValueError(f"second is '{self.second}', which is no teacher; use one of: {', '.join(names)}")
        return self

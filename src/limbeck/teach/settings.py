"""Who teaches, and how often a teacher is asked."""

from __future__ import annotations

from limbeck.judges import AnyJudge
from limbeck.judges.refusal import Refusal
from limbeck.models import AnyModel
from limbeck.spec import Spec


class Until(Spec):
    """A draw is accepted when the judge gives at least this probability that it does what is expected."""

    judge: AnyJudge = Refusal()
    at_least: float = 0.75


class TeachSettings(Spec):
    """Who teaches, how often a teacher is asked, and where soft labels come from.

    The first teacher that is for a prompt answers it: greedily at first, then sampled at `temperature`, up to
    `draws` times. `soft_labels` gives distributions for teachers that offer only text; `top` ids are kept.
    With `learn_to_avoid` the student itself draws once on every harmful and borderline prompt.
    """

    teachers: tuple[AnyModel, ...]
    draws: int = 4
    until: Until = Until()
    max_tokens: int = 256
    temperature: float = 1.0
    learn_to_avoid: bool = True
    soft_labels: AnyModel | None = None
    top: int = 32

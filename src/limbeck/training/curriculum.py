"""Which tiers are taught when: safe prompts first, then borderline, then adversarial ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, SerializeAsAny, model_validator
from scipy.stats import binomtest

from limbeck.spec import Kind, Share, Table
from limbeck.taxonomy import TIERS
from limbeck.training.probe import NO_HARM, OVER_REFUSAL, Outcome


class Curriculum(Kind):
    """A rule. Levels count the tiers that are open beyond the first; `measures` says whether it looks at rates."""

    @property
    def measures(self) -> bool:
        return False

    @abstractmethod
    def level(self, now: int, *, share: float) -> int:
        """The level at a share in [0, 1] of the training, from the level so far."""

    def after(self, now: int, outcomes: Sequence[Outcome]) -> int:
        """The level after the student was measured."""
        return now


class Flat(Curriculum):
    """All tiers from the first step on."""

    kind: Literal["flat"] = "flat"

    def level(self, now: int, *, share: float) -> int:
        return len(TIERS) - 1


class Ramp(Curriculum):
    """Borderline prompts come in at one share of the training, adversarial ones at another."""

    kind: Literal["ramp"] = "ramp"
    borderline: Share = 0.2
    adversarial: Share = 0.4

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.adversarial < self.borderline:
            raise ValueError(
                f"adversarial ({self.adversarial:g}) comes in before borderline ({self.borderline:g}); turn them round"
            )
        return self

    def level(self, now: int, *, share: float) -> int:
        return int(share >= self.borderline) + int(share >= self.adversarial)


class Competence(Curriculum):
    """The next tier opens once the student is good at those that are open, and closes again when it no longer is.

    Good: of the prompts of the open tiers, all harms pooled, the 95 % interval (Clopper-Pearson) of the share not
    handled safely lies below `harm` and that of the twins refused below `over_refusal`. Bad: either lies above.
    Between, and where nothing could be measured, it is undecided and the level stays. From the share `at_latest` of the
    training on everything is open.
    """

    kind: Literal["competence"] = "competence"
    harm: Share = 0.35
    over_refusal: Share = 0.35
    at_latest: Share = 0.5

    @property
    def measures(self) -> bool:
        return True

    def level(self, now: int, *, share: float) -> int:
        return len(TIERS) - 1 if share >= self.at_latest else now

    def after(self, now: int, outcomes: Sequence[Outcome]) -> int:
        tiers = TIERS[: now + 1]
        found = [
            _judged(
                [bool(one.wrong) for one in outcomes if one.tier in tiers and one.constraint not in NO_HARM], self.harm
            ),
            _judged([bool(one.wrong) for one in outcomes if one.constraint == OVER_REFUSAL], self.over_refusal),
        ]
        if "bad" in found:
            return max(0, now - 1)
        if set(found) <= {"good", "none"} and "good" in found:
            return min(len(TIERS) - 1, now + 1)
        return now


def _judged(wrong: Sequence[bool], bound: float) -> Literal["good", "bad", "undecided", "none"]:
    """Whether the rate lies below the bound, above it, or neither for certain; `none` of nothing."""
    if not wrong:
        return "none"
    interval = binomtest(sum(wrong), len(wrong)).proportion_ci(0.95, method="exact")
    return "good" if interval.high < bound else "bad" if interval.low > bound else "undecided"


CURRICULA: Table[Curriculum] = Table("curriculum", Curriculum, Flat, Ramp, Competence)
AnyCurriculum = Annotated[SerializeAsAny[Curriculum], BeforeValidator(CURRICULA.read)]

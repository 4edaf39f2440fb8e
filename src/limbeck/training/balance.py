"""How hard each lesson pulls: rules that set multipliers by what was measured, or that keep gradients apart."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, SerializeAsAny

from limbeck.spec import Kind, Table
from limbeck.taxonomy import HARMS
from limbeck.training.probe import NO_HARM, OVER_REFUSAL, ROBUSTNESS, USEFULNESS, Rate

Bound = Annotated[float, Field(ge=0, lt=1)]


class Pull(NamedTuple):
    """The state of one constraint: its multiplier, the integral in it, and the smoothed rate, None before the first."""

    multiplier: float = 0.0
    integral: float = 0.0
    smoothed: float | None = None


class Balance(Kind):
    """A rule. `apart` keeps the gradients of harmful and harmless prompts apart until the step; `bounds` are the rates
    that it holds, by constraint: with none nothing is measured."""

    apart: ClassVar[bool] = False

    @property
    def bounds(self) -> dict[str, float]:
        return {}

    def bounds_on(self, harms: Iterable[str]) -> dict[str, float]:
        """The bounds on these harms, a recipe's own among them, and on all that is no harm."""
        return {}

    @abstractmethod
    def multipliers(self, pulls: Mapping[str, Pull], *, harms: Iterable[str], share: float) -> dict[str, float]:
        """What each constraint adds to the pull of its lessons, which refuse these harms, at a share in [0, 1] of the
        training."""

    def after(self, pulls: Mapping[str, Pull], measured: Mapping[str, Rate]) -> dict[str, Pull]:
        """The state of each constraint after its rate was measured."""
        return dict(pulls)


class Plain(Balance):
    """Every lesson pulls alike."""

    kind: Literal["plain"] = "plain"

    def multipliers(self, pulls: Mapping[str, Pull], *, harms: Iterable[str], share: float) -> dict[str, float]:
        return {}


class Scheduled(Balance):
    """Harmful prompts pull harder by a multiplier that goes from `first` to `last` along the training, twins by
    `over_refusal` throughout."""

    kind: Literal["scheduled"] = "scheduled"
    first: float = Field(default=1.0, ge=0)
    last: float = Field(default=0.0, ge=0)
    over_refusal: float = Field(default=0.0, ge=0)

    def multipliers(self, pulls: Mapping[str, Pull], *, harms: Iterable[str], share: float) -> dict[str, float]:
        harmful = self.first + share * (self.last - self.first)
        return {**dict.fromkeys(harms, harmful), OVER_REFUSAL: self.over_refusal}


class Projected(Balance):
    """Gradients that oppose each other do not: where the gradient of harmless prompts points against that of harmful
    ones, the part of it that does is left out. Once an optimizer step; costs a second backward pass. After SafeGrad
    (arXiv:2508.07172) and PCGrad (Yu et al. 2020, arXiv:2001.06782)."""

    kind: Literal["projected"] = "projected"
    apart: ClassVar[bool] = True

    def multipliers(self, pulls: Mapping[str, Pull], *, harms: Iterable[str], share: float) -> dict[str, float]:
        return {}


class Constrained(Balance):
    """Multipliers that hold measured rates below bounds.

    For each constraint, at each probe, with e = smoothed rate - bound:

        multiplier = clamp(Kp e + I + Kd Δ(smoothed rate), 0, cap),   I grows by Ki e unless that is clamped already

    so that it falls back once the bound is met and does not wind up where it cannot be. `harm` bounds the share of
    harmful prompts that are not handled safely, harm by harm; `over_refusal` that of twins refused; `usefulness_drop`
    the base's accuracy minus the student's; `robustness` the share of decisions that misspelling flips. Rates drive,
    not their intervals: of 12 prompts 0 has an upper bound of 22 %. Ours, after PID-Lagrangian (Stooke et al. 2020,
    arXiv:2007.03964).
    """

    kind: Literal["constrained"] = "constrained"
    harm: Bound | None = 0.05
    over_refusal: Bound | None = 0.10
    usefulness_drop: Bound | None = None
    robustness: Bound | None = None
    proportional: float = Field(default=2.0, ge=0)
    integral: float = Field(default=1.0, ge=0)
    derivative: float = Field(default=0.5, ge=0)
    cap: float = Field(default=3.0, gt=0)
    smoothing: float = Field(default=0.5, ge=0, lt=1)

    @property
    def bounds(self) -> dict[str, float]:
        return self.bounds_on(harm.name for harm in HARMS)

    def bounds_on(self, harms: Iterable[str]) -> dict[str, float]:
        others = {
            OVER_REFUSAL: self.over_refusal,
            USEFULNESS: self.usefulness_drop,
            ROBUSTNESS: self.robustness,
        }
        held = {name: self.harm for name in harms} | others
        return {name: bound for name, bound in held.items() if bound is not None}

    def multipliers(self, pulls: Mapping[str, Pull], *, harms: Iterable[str], share: float) -> dict[str, float]:
        return {name: pull.multiplier for name, pull in pulls.items()}

    def after(self, pulls: Mapping[str, Pull], measured: Mapping[str, Rate]) -> dict[str, Pull]:
        found = dict(pulls)
        for name, bound in self.bounds_on(measured.keys() - NO_HARM).items():
            rate = measured[name].value if name in measured else None
            if rate is not None:
                found[name] = self._next(found.get(name, Pull()), rate, bound)
        return found

    def _next(self, pull: Pull, rate: float, bound: float) -> Pull:
        before = rate if pull.smoothed is None else pull.smoothed
        smoothed = self.smoothing * before + (1 - self.smoothing) * rate
        error, change = smoothed - bound, smoothed - before
        rest = self.proportional * error + self.derivative * change
        integral = pull.integral + self.integral * error
        # The integral goes no further than the multiplier is clamped on that side.
        if error > 0:
            integral = min(integral, max(pull.integral, self.cap - rest))
        else:
            integral = max(integral, min(pull.integral, -rest))
        return Pull(min(max(rest + integral, 0.0), self.cap), integral, smoothed)


BALANCES: Table[Balance] = Table("balance", Balance, Plain, Scheduled, Projected, Constrained)
AnyBalance = Annotated[SerializeAsAny[Balance], BeforeValidator(BALANCES.read)]

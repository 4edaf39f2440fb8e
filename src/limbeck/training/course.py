"""The course of a training: which lessons come next, how hard each pulls, and which adapter was best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from limbeck.records import Lesson
from limbeck.taxonomy import TIERS
from limbeck.training import TrainSettings
from limbeck.training.balance import Pull
from limbeck.training.pool import Plan, Pool
from limbeck.training.probe import NO_HARM, OVER_REFUSAL, Outcome, Rate, rates
from limbeck.training.state import put


class Course:
    """All that probes change, and how far the lessons are read; its state is saved with the checkpoint, so that a
    killed training goes on the same."""

    def __init__(self, settings: TrainSettings, lessons: Pool, *, harms: frozenset[str], seed: int) -> None:
        """`harms` are those that lessons refuse or probes measure."""
        self.settings = settings
        self.all = lessons
        self.harms = harms
        self.seed = seed
        self.pulls: dict[str, Pull] = {}
        self.met = 0
        self.best: tuple[tuple[float, float], list[Tensor]] | None = None
        # Of each level, the steps that were taken at it.
        self.taken: dict[int, int] = {}
        self._open(settings.curriculum.level(0, share=0.0))

    def _open(self, level: int) -> None:
        """Lessons of the tiers up to this level from here on, where they were left."""
        self.level = level
        # The first harder tier that has any where the easier ones are empty.
        reach = (TIERS[: one + 1] for one in range(level, len(TIERS)))
        self._open_tiers = next((tiers for tiers in reach if self.all.of_tiers(tiers)), TIERS)
        self._plan = Plan(self.all.of_tiers(self._open_tiers), batch=self.settings.batch_lessons, seed=self.seed)

    def lessons(self, share: float) -> list[Lesson]:
        """The lessons of the next step: of all open tiers, epoch after epoch; of tiers that open late, as far as the
        steps reach."""
        level = self.settings.curriculum.level(self.level, share=share)
        if level != self.level:
            self._open(level)
        step = self.taken.get(level, 0)
        self.taken[level] = step + 1
        return self._plan.step(step)

    def multipliers(self, share: float) -> dict[str, float]:
        """What each constraint adds to the pull of its lessons at this share of the training."""
        return self.settings.balance.multipliers(self.pulls, harms=self.harms, share=share)

    def measured(
        self, outcomes: Sequence[Outcome], parameters: Sequence[nn.Parameter], *, share: float
    ) -> dict[str, Any]:
        """Takes in what a probe found of the student with these parameters; the figures of it for the log."""
        found = rates(outcomes)
        bounds = self.settings.balance.bounds_on(sorted(self.harms))
        # What is not taught yet goes wrong however hard lessons pull: it would only wind a multiplier up.
        taught = rates([one for one in outcomes if one.tier in self._open_tiers])
        self.pulls = self.settings.balance.after(self.pulls, taught)
        over = [_excess(found.get(name), bound) for name, bound in bounds.items()]
        self.met = self.met + 1 if all(one is not None and one <= 0 for one in over) else 0
        known = [one for one in over if one is not None]
        merit = (-sum(max(0.0, one) for one in known), _separation(found))
        # An adapter of which a bound could not be measured is not the best.
        if self.settings.keep == "best" and len(known) == len(over) and (self.best is None or merit > self.best[0]):
            self.best = merit, [parameter.detach().cpu().clone() for parameter in parameters]
        curriculum = self.settings.curriculum
        level = curriculum.level(curriculum.after(self.level, outcomes), share=share)
        if level != self.level:
            self._open(level)
        return {"rates": {name: list(rate) for name, rate in found.items()}, "bounds": bounds, "level": self.level}

    @property
    def is_met(self) -> bool:
        """Whether the training may end here."""
        enough = self.settings.stop_when_met
        return enough is not None and self.met >= enough and self.level == len(TIERS) - 1

    def restore_best(self, parameters: Sequence[nn.Parameter]) -> None:
        """The parameters of the best probe, in place of these."""
        if self.best is not None:
            put(self.best[1], into=parameters)

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        return {
            "pulls": {name: tuple(pull) for name, pull in self.pulls.items()},
            "met": self.met,
            "best": self.best,
            "level": self.level,
            "taken": dict(self.taken),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state."""
        self.pulls = {name: Pull(*pull) for name, pull in state["pulls"].items()}
        self.met, self.best = state["met"], state["best"]
        self.taken = dict(state["taken"])
        self._open(state["level"])


def _excess(rate: Rate | None, bound: float) -> float | None:
    """How far a rate lies above its bound; None where it was not measured."""
    return None if rate is None or rate.value is None else rate.value - bound


def _separation(found: Mapping[str, Rate]) -> float:
    """Share of harmful prompts handled safely minus share of twins refused; unmeasured, either counts as the worst."""
    harms = [rate for name, rate in found.items() if name not in NO_HARM]
    harm = Rate(sum(rate.wrong for rate in harms), sum(rate.n for rate in harms)).value
    refused = found[OVER_REFUSAL].value if OVER_REFUSAL in found else None
    return (1 - (1.0 if harm is None else harm)) - (1.0 if refused is None else refused)

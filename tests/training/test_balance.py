"""Rules that say how hard lessons pull."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.decision import Decision
from limbeck.losses.noise import Noise
from limbeck.losses.noise_consistency import NoiseConsistency
from limbeck.training import TrainSettings
from limbeck.training.balance import Constrained, Plain, Pull, Scheduled
from limbeck.training.curriculum import Ramp
from limbeck.training.probe import Rate


def run(rule: Constrained, rates: list[tuple[int, int]], name: str = "toxicity") -> list[Pull]:
    pulls: dict[str, Pull] = {}
    course = []
    for wrong, n in rates:
        pulls = rule.after(pulls, {name: Rate(wrong, n)})
        course.append(pulls[name])
    return course


def test_the_multiplier_is_proportional_integral_and_derivative_of_the_smoothed_excess() -> None:
    rule = Constrained(harm=0.1, proportional=2.0, integral=1.0, derivative=0.5, smoothing=0.5)
    first, second = run(rule, [(5, 10), (3, 10)])
    # First: smoothed .5, e .4: 2 * .4 + .4 + 0 = 1.2. Second: smoothed .4, e .3, change -.1:
    # 2 * .3 + (.4 + .3) + .5 * -.1 = 1.25.
    assert first == pytest.approx((1.2, 0.4, 0.5))
    assert second == pytest.approx((1.25, 0.7, 0.4))


def test_a_bound_that_cannot_be_met_does_not_wind_up() -> None:
    rule = Constrained(harm=0.0, cap=1.0, smoothing=0.0, derivative=0.0, proportional=0.5)
    stuck = run(rule, [(10, 10)] * 50)
    assert stuck[-1].multiplier == 1.0
    # Met at last: the multiplier is gone within a few probes, not after fifty.
    met = run(rule, [(10, 10)] * 50 + [(0, 10)])
    assert met[-1].multiplier < 1.0
    assert met[-1].integral <= 1.0


def test_a_bound_that_is_met_from_the_start_never_pulls_and_does_not_wind_down() -> None:
    rule = Constrained(over_refusal=0.5, smoothing=0.0)
    calm = run(rule, [(0, 20)] * 30, "over_refusal")
    assert {pull.multiplier for pull in calm} == {0.0}
    (*_, alarmed) = run(rule, [(0, 20)] * 30 + [(20, 20)], "over_refusal")
    # e = .5: 2 * .5 + .5 + .5 * 1 = 2, as if there had been no thirty probes before.
    assert alarmed.multiplier == pytest.approx(2.0)


def test_what_was_not_measured_leaves_the_multiplier() -> None:
    rule = Constrained()
    before = {"bias": Pull(1.5, 0.5, 0.4)}
    assert rule.after(before, {})["bias"] == before["bias"]
    assert rule.after(before, {"bias": Rate(0, 0)})["bias"] == before["bias"]


def test_only_bounds_that_are_set_are_held() -> None:
    assert set(Constrained(over_refusal=None).bounds) == {"manipulation", "toxicity", "bias", "unsafe_advice"}
    assert set(Constrained(harm=None, usefulness_drop=0.02).bounds) == {"over_refusal", "usefulness_drop"}
    assert Plain().bounds == Scheduled().bounds == {}


def test_a_schedule_goes_from_its_first_to_its_last_multiplier() -> None:
    rule = Scheduled(first=2.0, last=1.0, over_refusal=0.5)
    assert rule.multipliers({}, harms=["bias", "fraud"], share=0.25)["fraud"] == pytest.approx(1.75)
    assert rule.multipliers({}, harms=(), share=0.9)["over_refusal"] == 0.5


def test_settings_that_cannot_work_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="stop_when_met needs bounds"):
        TrainSettings(stop_when_met=2)
    with pytest.raises(ValidationError, match="robustness pulls on noise_consistency"):
        TrainSettings(balance=Constrained(robustness=0.1))
    TrainSettings(balance=Constrained(robustness=0.1), losses=(NoiseConsistency(),))
    with pytest.raises(ValidationError, match=r"give them the same refuse_with"):
        TrainSettings(losses=(Decision(), Decision(refuse_with="I can't do that")))
    with pytest.raises(ValidationError, match=r"have within \[0, 8\]; give them the same"):
        TrainSettings(losses=(Decision(), Decision(within=8)))
    with pytest.raises(ValidationError, match=r"and the same recover"):
        TrainSettings(losses=(Decision(within=8), Decision(within=8, recover=True)))
    with pytest.raises(ValidationError, match="set within to 1 or more"):
        Decision(recover=True)
    with pytest.raises(ValidationError, match=r"give them the same noise\.rewrites"):
        casing = NoiseConsistency(noise=Noise(on="text", rewrites=("casing",)))
        TrainSettings(losses=(NoiseConsistency(noise=Noise(on="text")), casing))
    with pytest.raises(ValidationError, match="no loss learns from a teacher"):
        TrainSettings(teacher="live", losses=(CrossEntropy(),))
    with pytest.raises(ValidationError, match="'floor' does nothing without 'decision_window'"):
        CrossEntropy(floor=0.5)
    with pytest.raises(ValidationError, match="comes in before borderline"):
        Ramp(borderline=0.6, adversarial=0.3)
    with pytest.raises(ValidationError, match="finite"):
        TrainSettings(learning_rate=math.inf)
    with pytest.raises(ValidationError, match="must begin with"):
        Decision(refuse_with="No way")

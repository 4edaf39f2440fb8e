"""What holds for every evaluator."""

from __future__ import annotations

import random
from typing import Any

import pytest

from limbeck.evaluation import EVALUATORS
from limbeck.evaluation.spec import Evaluator
from limbeck.perturb import Casing
from limbeck.records import Measurement, Prompt, Trial, Verdict, asked
from limbeck.taxonomy import Refused

EVERY = pytest.mark.parametrize("evaluator", [member() for member in EVALUATORS.values()], ids=list(EVALUATORS))


def verdict(refused: Refused) -> tuple[Verdict, ...]:
    return (Verdict(of="x", judge="j", version="1", refused=refused),)


def prompts(count: int) -> list[Prompt]:
    """A harmful prompt, its twin and a multiple-choice item, so many times."""
    found = []
    for number in range(count):
        harmful = {"harm": "bias", "tier": "adversarial", "conduct": "refuse"}
        found.append(Prompt(messages=asked(f"Harmful {number}?"), family=f"f{number}", **harmful))  # type: ignore[arg-type]
        found.append(Prompt(messages=asked(f"Twin {number}?"), harm="bias", family=f"f{number}", reference="So."))
        found.append(Prompt(messages=asked(f"Which {number}?"), choices=("a", "b"), answer=0))
    return found


def answered(count: int) -> list[Trial]:
    """Every kind of trial on them, with outcomes that differ from prompt to prompt."""
    noise = random.Random(0)
    found = []
    for prompt in prompts(count):
        if prompt.choices:
            scores = (noise.uniform(-2, 0), noise.uniform(-2, 0))
            found.append(Trial(prompt=prompt, subject="s", asked="choices", scores=scores))
            continue
        found.append(Trial(prompt=prompt, subject="s", asked="decision", scores=(noise.uniform(-3, 0),)))
        for more in ({}, {"sample": 1}, {"sample": 2}, {"perturbation": "casing"}):
            one: dict[str, Any] = {"reply": "...", "finish": "stop", "likeness": noise.random(), **more}
            asked_for = Casing()(prompt, seed=0) if "perturbation" in more else prompt
            said = verdict(noise.choice(("full", "partial", "none")))
            found.append(Trial(prompt=asked_for, subject="s", asked="reply", verdicts=said, **one))
        for attempt in range(2):
            said = verdict(noise.choice(("full", "partial", "none")))
            sent = asked(f"{prompt.text} {attempt}")
            tried = {"attack": "role_play", "sent": sent, "reply": "...", "finish": "stop", "verdicts": said}
            found.append(Trial(prompt=prompt, subject="s", asked="reply", **tried))  # type: ignore[arg-type]
    return found


def by_name(measured: Any) -> dict[str, Measurement]:
    return {" ".join((one.name, *one.slice.values())): one for one in measured}


@EVERY
def test_an_empty_exam_reports_none_and_not_zero(evaluator: Evaluator) -> None:
    found = list(evaluator.measure([]))
    assert found
    assert {(one.value, one.low, one.high, one.scored, one.unscored) for one in found} == {(None, None, None, 0, 0)}


@EVERY
def test_it_measures_something_when_there_is_something(evaluator: Evaluator) -> None:
    assert any(one.value is not None and one.scored > 0 for one in evaluator.measure(answered(6)))


@EVERY
def test_the_order_of_the_trials_does_not_matter(evaluator: Evaluator) -> None:
    trials = answered(8)
    found, turned = by_name(evaluator.measure(trials)), by_name(evaluator.measure(trials[::-1]))
    assert found.keys() == turned.keys()
    for name, one in found.items():
        other = turned[name]
        assert (one.value, one.scored, one.unscored) == (pytest.approx(other.value), other.scored, other.unscored)


@EVERY
def test_the_order_of_the_trials_does_not_move_an_interval(evaluator: Evaluator) -> None:
    trials = answered(8)
    found, turned = by_name(evaluator.measure(trials)), by_name(evaluator.measure(trials[::-1]))
    for name, one in found.items():
        assert (one.low, one.high) == (pytest.approx(turned[name].low), pytest.approx(turned[name].high))


@EVERY
def test_a_value_lies_inside_its_interval(evaluator: Evaluator) -> None:
    for one in evaluator.measure(answered(8)):
        if one.value is not None:
            assert one.low is not None and one.high is not None
            assert one.low - 1e-9 <= one.value <= one.high + 1e-9


@EVERY
def test_a_blocked_reply_is_unscored_and_neither_safe_nor_unsafe(evaluator: Evaluator) -> None:
    blocked = [
        one.model_copy(update={"reply": None, "finish": "blocked", "verdicts": (), "likeness": None, "scores": ()})
        for one in answered(3)
    ]
    found = list(evaluator.measure(blocked))
    assert {(one.value, one.scored) for one in found} == {(None, 0)}
    assert any(one.unscored > 0 for one in found)


@EVERY
def test_one_more_harmful_trial_never_improves_a_figure(evaluator: Evaluator) -> None:
    more = Prompt(messages=asked("One more?"), harm="bias", tier="adversarial", conduct="refuse")
    told = {"prompt": more, "subject": "s", "asked": "reply", "reply": "...", "verdicts": verdict("none")}
    unsafe = [Trial(**told), Trial(**told, attack="role_play", sent=asked("Play!"))]  # type: ignore[arg-type]
    for count in (1, 4):
        before, after = (by_name(evaluator.measure(given)) for given in (answered(count), [*answered(count), *unsafe]))
        for name, one in before.items():
            if one.value is not None and one.name in ("handled_safely", "refused_when_due", "separation"):
                assert (after[name].value or 0) <= one.value
            if one.value is not None and one.name == "attack_success":
                assert (after[name].value or 0) >= one.value


@EVERY
def test_no_trial_is_wanted_of_no_prompts_and_none_is_answered_yet(evaluator: Evaluator) -> None:
    assert list(evaluator.wants([], seed=0)) == []
    wanted = list(evaluator.wants(prompts(3), seed=0))
    assert wanted and all(one.reply is None and one.scores == () and one.verdicts == () for one in wanted)

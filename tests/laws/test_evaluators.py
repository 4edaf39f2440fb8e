"""What holds for every evaluator."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from limbeck.evaluation import EVALUATORS
from limbeck.evaluation.spec import Evaluator
from limbeck.records import Measurement, Prompt, Trial, Verdict, asked
from limbeck.taxonomy import Refused

DATA = Path(__file__).parents[1] / "evaluation" / "data"
# What has no default: files that others publish, here with rows of our own.
GIVEN: dict[str, dict[str, Any]] = {
    "bbq": {"path": DATA / "bbq.jsonl"},
    "crows_pairs": {"path": DATA / "crows_pairs.csv"},
    "dark_patterns": {"path": DATA / "dark_patterns.csv", "judge": "harm"},
    "fidelity": {"teacher": {"kind": "local", "name": "teacher", "model": "some/model"}},
}
MEMBERS = [member(**GIVEN.get(kind, {})) for kind, member in EVALUATORS.items()]
EVERY = pytest.mark.parametrize("evaluator", MEMBERS, ids=list(EVALUATORS))
# They bring items of their own, whatever the exam's prompts are.
OWN_ITEMS = ("bbq", "crows_pairs", "dark_patterns", "instructions", "quirks")
REPLIES = ("Yes.", "So it is, and I will say it once more.", '{"a": 1}', "- a\n- b\n- c", "1. a\n2. b", "")


def verdict(refused: Refused) -> tuple[Verdict, ...]:
    return (Verdict(of="x", judge="j", version="1", refused=refused),)


def prompts(count: int) -> list[Prompt]:
    """A harmful prompt, its translation, its twin, an everyday prompt and two multiple-choice items, so many times."""
    found = []
    for number in range(count):
        harmful = {"harm": "bias", "tier": "adversarial", "conduct": "refuse", "family": f"f{number}"}
        found.append(Prompt(messages=asked(f"Harmful {number} because of it?"), **harmful))  # type: ignore[arg-type]
        found.append(Prompt(messages=asked(f"Nocivo {number}?"), language="it", **harmful))  # type: ignore[arg-type]
        found.append(Prompt(messages=asked(f"Twin {number}?"), harm="bias", family=f"f{number}", reference="Yes."))
        found.append(Prompt(messages=asked(f"Everyday {number}?"), reference="So it is."))
        found.append(Prompt(messages=asked(f"Which {number}?"), choices=("a", "b"), answer=0))
        found.append(Prompt(messages=asked(f"Which of {number}?"), choices=("a", "b", "c"), answer=0, also_right=(1,)))
    return found


def answered(evaluator: Evaluator, count: int, *, seed: int = 0) -> list[Trial]:
    """All that it wants to ask of so many prompts, with outcomes that differ from trial to trial and seed to seed."""
    noise = random.Random(seed)
    wanted = {one.id: one for one in evaluator.wants(prompts(count), seed=0)}
    return [outcome(one, noise) for one in wanted.values()]


def outcome(one: Trial, noise: random.Random) -> Trial:
    said: dict[str, Any] = {"subject": "s"}
    if one.asked in ("reply", "instruction"):
        said |= {"reply": noise.choice(REPLIES), "finish": "stop", "likeness": noise.random()}
        said["verdicts"] = verdict(noise.choice(("full", "partial", "none")))
    elif one.asked == "dark_pattern":
        score = noise.random()
        harm, harmful = {str(one.prompt.harm): score}, ((str(one.prompt.harm),) if score >= 0.5 else ())
        said |= {"reply": noise.choice(REPLIES), "finish": "stop"}
        said["verdicts"] = (Verdict(of="x", judge="j", version="1", harm=harm, harmful=harmful),)
    elif one.asked == "distribution":
        said |= {"scores": (noise.random(), noise.random()), "tokens": (9, 9)}
    else:
        texts = len(one.prompt.choices) or 1
        said |= {"scores": tuple(noise.uniform(-3, 0) for _ in range(texts)), "tokens": (2,) * texts}
    return one.model_copy(update=said)


def by_name(measured: Any) -> dict[str, Measurement]:
    return {" ".join((one.name, *one.slice.values())): one for one in measured}


@EVERY
def test_an_empty_exam_reports_none_and_not_zero(evaluator: Evaluator) -> None:
    found = list(evaluator.measure([]))
    assert found
    assert {(one.value, one.low, one.high, one.scored, one.unscored) for one in found} == {(None, None, None, 0, 0)}


@EVERY
def test_it_measures_something_when_there_is_something(evaluator: Evaluator) -> None:
    assert any(one.value is not None and one.scored > 0 for one in evaluator.measure(answered(evaluator, 6)))


@EVERY
def test_the_order_of_the_trials_does_not_matter(evaluator: Evaluator) -> None:
    trials = answered(evaluator, 8)
    found, turned = by_name(evaluator.measure(trials)), by_name(evaluator.measure(trials[::-1]))
    assert found.keys() == turned.keys()
    for name, one in found.items():
        other = turned[name]
        assert (one.value, one.scored, one.unscored) == (pytest.approx(other.value), other.scored, other.unscored)


@EVERY
def test_the_order_of_the_trials_does_not_move_an_interval(evaluator: Evaluator) -> None:
    trials = answered(evaluator, 8)
    found, turned = by_name(evaluator.measure(trials)), by_name(evaluator.measure(trials[::-1]))
    for name, one in found.items():
        assert (one.low, one.high) == (pytest.approx(turned[name].low), pytest.approx(turned[name].high))


@EVERY
def test_a_value_lies_inside_its_interval(evaluator: Evaluator) -> None:
    for one in evaluator.measure(answered(evaluator, 8)):
        if one.value is not None:
            assert one.low is not None and one.high is not None
            assert one.low - 1e-9 <= one.value <= one.high + 1e-9


@EVERY
def test_a_blocked_reply_is_unscored_and_neither_safe_nor_unsafe(evaluator: Evaluator) -> None:
    blocked = [
        one.model_copy(
            update={"reply": None, "finish": "blocked", "verdicts": (), "likeness": None, "scores": (), "tokens": ()}
        )
        for one in answered(evaluator, 3)
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
        trials = answered(evaluator, count)
        before, after = (by_name(evaluator.measure(given)) for given in (trials, [*trials, *unsafe]))
        for name, one in before.items():
            if one.value is not None and one.name in ("handled_safely", "refused_when_due", "separation"):
                assert (after[name].value or 0) <= one.value
            if one.value is not None and one.name == "attack_success":
                assert (after[name].value or 0) >= one.value


@EVERY
def test_no_trial_is_wanted_of_no_prompts_and_none_is_answered_yet(evaluator: Evaluator) -> None:
    assert evaluator.kind in OWN_ITEMS or list(evaluator.wants([], seed=0)) == []
    wanted = list(evaluator.wants(prompts(3), seed=0))
    assert wanted and all(one.reply is None and one.scores == () and one.verdicts == () for one in wanted)


@EVERY
def test_beside_nothing_that_was_scored_there_is_no_figure_and_never_zero(evaluator: Evaluator) -> None:
    mine = answered(evaluator, 3)
    unanswered = list(evaluator.wants(prompts(3), seed=0))
    for trials, others in (([], []), (mine, unanswered), (unanswered, mine)):
        found = list(evaluator.beside(trials, others, {"teacher": others}))
        assert {(one.value, one.low, one.high, one.scored) for one in found} <= {(None, None, None, 0)}


@EVERY
def test_beside_others_too_a_value_lies_inside_its_interval(evaluator: Evaluator) -> None:
    mine, first, teacher = (answered(evaluator, 8, seed=seed) for seed in range(3))
    for one in evaluator.beside(mine, first, {"teacher": teacher}):
        if one.value is not None:
            assert one.low is not None and one.high is not None
            assert one.low - 1e-9 <= one.value <= one.high + 1e-9

"""What holds for every evaluator."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
# Nats, of which no mean is sure not to be far from what was seen; and what lies between two of the replies.
UNBOUNDED = ("perplexity", "likelihood_difference", "reply_words")
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
        said["risk"] = noise.random() if one.asked == "decision" else None
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
def test_outcomes_that_are_all_alike_have_an_interval_too(evaluator: Evaluator) -> None:
    for count in (1, 6):
        trials = answered(evaluator, count)
        # Every trial as the first of its kind; decisions are cautious, and as the teacher is.
        first: dict[Any, Trial] = {}
        kinds = [(one.asked, one.prompt.conduct, len(one.prompt.choices)) for one in trials]
        for kind, one in zip(kinds, trials, strict=True):
            first.setdefault(kind, one)
        alike = [
            one.model_copy(
                update={
                    **{
                        name: getattr(first[kind], name)
                        for name in ("reply", "likeness", "scores", "tokens", "verdicts")
                    },
                    "risk": first[kind].p_refusing if one.asked == "decision" else None,
                }
            )
            for kind, one in zip(kinds, trials, strict=True)
        ]
        for one in evaluator.measure(alike):
            if one.value is not None and one.name not in UNBOUNDED:
                assert one.low is not None and one.high is not None, one
                assert one.low - 1e-9 <= one.value <= one.high + 1e-9 and one.low < one.high


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


class Worse(NamedTuple):
    """How some trials of a dimension end worst, given all of them, and the figures that must not improve by it."""

    of: Callable[[Trial], bool]
    outcome: Callable[[Trial, Sequence[Trial]], dict[str, Any]]
    more_is_better: tuple[str, ...] = ()
    less_is_better: tuple[str, ...] = ()


def is_due(one: Trial) -> bool:
    return one.is_plain and one.prompt.conduct == "refuse"


def complied(one: Trial, trials: Sequence[Trial]) -> dict[str, Any]:
    return {"reply": "Sure, first…", "verdicts": verdict("none")}


def chose_wrong(one: Trial, trials: Sequence[Trial]) -> dict[str, Any]:
    return {"scores": tuple(-9.0 if at in one.prompt.right else -0.1 for at in range(len(one.prompt.choices)))}


def unlike(one: Trial, trials: Sequence[Trial]) -> dict[str, Any]:
    return {"scores": (0.0, 0.0)}


def decided_alike(one: Trial, trials: Sequence[Trial]) -> dict[str, Any]:
    return {"verdicts": next(other.verdicts for other in trials if other.is_plain and other.prompt == one.prompt)}


def with_pattern(one: Trial, trials: Sequence[Trial]) -> dict[str, Any]:
    pattern = str(one.prompt.harm)
    return {"verdicts": (Verdict(of="x", judge="j", version="1", harm={pattern: 1.0}, harmful=(pattern,)),)}


def always(**outcome: Any) -> Callable[[Trial, Sequence[Trial]], dict[str, Any]]:
    return lambda one, trials: outcome


WORSE = {
    "usefulness": Worse(lambda one: one.asked == "choices", chose_wrong, ("multiple_choice_accuracy",)),
    "safety": Worse(is_due, complied, ("handled_safely",)),
    "consistency": Worse(is_due, complied, ("told_apart",)),
    "refusal": Worse(is_due, complied, ("refused_when_due", "separation")),
    "attacks": Worse(lambda one: one.attack is not None and not one.prompt.is_twin, complied, (), ("attack_success",)),
    "languages": Worse(is_due, complied, ("handled_safely",)),
    "truthfulness": Worse(lambda one: bool(one.prompt.also_right), chose_wrong, ("mc1", "mc2")),
    "answers": Worse(lambda one: one.is_plain, always(reply="Blue."), ("exact_match", "answer_f1")),
    "instructions": Worse(
        lambda one: "at most 10 words" in one.prompt.text, always(reply="so " * 99), ("instructions_followed",)
    ),
    "perplexity": Worse(lambda one: one.asked == "reference", always(scores=(-9.0,)), (), ("perplexity",)),
    "bbq": Worse(lambda one: one.asked == "continuations", chose_wrong, ("bbq_accuracy",)),
    "crows_pairs": Worse(
        lambda one: one.asked == "sentences", always(scores=(-0.1, -9.0)), (), ("likelihood_difference",)
    ),
    "dark_patterns": Worse(lambda one: one.asked == "dark_pattern", with_pattern, (), ("dark_patterns",)),
    "fidelity": Worse(lambda one: one.asked == "distribution", unlike, ("kd_alignment", "top1_agreement")),
    "robustness": Worse(lambda one: one.asked == "distribution", unlike, ("noise_robustness",)),
    "quirks": Worse(lambda one: one.is_plain, always(finish="length"), (), ("cut_short",)),
    "faithfulness": Worse(lambda one: one.perturbation is not None, decided_alike, ("faithfulness",)),
}


@EVERY
def test_one_more_harmful_trial_never_improves_a_figure(evaluator: Evaluator) -> None:
    worse, held = WORSE[evaluator.kind], set()
    for count in (1, 4):
        trials = answered(evaluator, count)
        before = by_name(evaluator.measure(trials))
        for at in [at for at, one in enumerate(trials) if worse.of(one)][:3]:
            harmful = trials[at].model_copy(update=worse.outcome(trials[at], trials))
            after = by_name(evaluator.measure([*trials[:at], harmful, *trials[at + 1 :]]))
            for name, one in before.items():
                if one.value is not None and one.name in (*worse.more_is_better, *worse.less_is_better):
                    now = after[name].value
                    assert now is not None
                    sign = 1 if one.name in worse.more_is_better else -1
                    assert sign * now <= sign * one.value + 1e-9, name
                    held.add(one.name)
    assert held == {*worse.more_is_better, *worse.less_is_better}


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

"""A training that measures itself: what probes find reaches the lessons, the log, the end and a resumed run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from limbeck.errors import InputError
from limbeck.judges.grade import GradeSettings
from limbeck.judges.spec import JudgeSpec
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.decision import Decision
from limbeck.losses.noise import Noise
from limbeck.losses.noise_consistency import NoiseConsistency
from limbeck.models.local import Local
from limbeck.protocols import Exchange, Judge, Tools
from limbeck.records import Checkpoint, Lesson, Prompt, Verdict, asked
from limbeck.taxonomy import HARMS, TIERS
from limbeck.training import TrainSettings
from limbeck.training.balance import Constrained, Projected
from limbeck.training.course import Course
from limbeck.training.curriculum import Competence, Ramp
from limbeck.training.loop import train
from limbeck.training.pool import Pool
from limbeck.training.probe import Outcome, Probe, ProbeSettings, Rate, rates
from limbeck.training.step import without_opposition
from limbeck.training.student import AdapterSettings, Student, StudentSettings
from limbeck.workspace import Silent, StageStore

HARMFUL: dict[str, Any] = {"harm": "bias", "tier": "adversarial", "conduct": "refuse"}
TWIN: dict[str, Any] = {"harm": "bias"}


class Loud(JudgeSpec):
    """Takes a reply of an even length for a refusal: the tiny model's replies are noise, and some fall on either
    side."""

    kind: Literal["loud"] = "loud"

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Judge]:
        yield _Loud()


class _Loud:
    name, version = "loud", "1"

    def grade(self, exchanges: Iterable[Exchange]) -> Iterator[Verdict]:
        for one in exchanges:
            refused = len(one.reply) % 2 == 0
            yield Verdict(
                of=one.id, judge="loud", version="1", refused="full" if refused else "none", p_refused=float(refused)
            )


JUDGES = GradeSettings(judges=(Loud(),))


def prompt(number: int, **more: Any) -> Prompt:
    return Prompt(messages=asked(f"What of number {number}?"), family=f"f{number // 2}", **more)


def lesson(number: int, **more: Any) -> Lesson:
    due = more.get("conduct") == "refuse"
    return Lesson(prompt=prompt(number, **more), reply="No." if due else "Yes.", risk=float(due))


LESSONS = [lesson(number, **(HARMFUL if number % 2 else TWIN)) for number in range(8)]
VALIDATION = [prompt(100 + number, **(HARMFUL if number % 2 else TWIN)) for number in range(8)]


def settings(**more: Any) -> TrainSettings:
    given = {
        "losses": (CrossEntropy(), Decision()), "max_steps": 5, "batch_lessons": 4, "learning_rate": 1e-2,
        "balance": Constrained(), "probe": ProbeSettings(every_steps=2, at_least=1, prompts=8, max_tokens=8),
    }  # fmt: skip
    return TrainSettings(**{**given, **more})


def trained(given: TrainSettings, tiny_model: Path, store: StageStore, lessons: list[Lesson] = LESSONS) -> Checkpoint:
    student = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4))
    return train(given, student, lessons, None, None, VALIDATION, JUDGES, store=store)


def rows(store: StageStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.root / "metrics" / "metrics.jsonl").read_text().splitlines()]


def at(store: StageStore, folder: str) -> StageStore:
    return replace(store, root=store.root / folder)


def test_rates_bounds_and_multipliers_are_in_the_log(store: StageStore, tiny_model: Path) -> None:
    trained(settings(), tiny_model, store)
    log = rows(store)
    assert [number for number, row in enumerate(log) if "rates" in row] == [0, 2, 4]
    assert {name: n for name, (_, n) in log[0]["rates"].items()} == {"bias": 4, "over_refusal": 4}
    assert log[0]["bounds"]["over_refusal"] == 0.10
    for row in log:
        assert set(row["multipliers"]) == {"bias", "over_refusal"}
    # What was measured before the first step pulls in it.
    rule = Constrained()
    pulls = rule.after({}, {name: Rate(*found) for name, found in log[0]["rates"].items()})
    assert log[0]["multipliers"] == pytest.approx(rule.multipliers(pulls, harms=(), share=0.0))


def test_a_short_training_is_measured_on_its_way_too() -> None:
    # Of 23 steps at least four times: 23 // 4 = 5.
    assert [step for step in range(23) if ProbeSettings().is_due(step, steps=23)] == [0, 5, 10, 15, 20]
    assert [step for step in range(500) if ProbeSettings().is_due(step, steps=500)] == list(range(0, 500, 50))
    assert all(ProbeSettings().is_due(step, steps=3) for step in range(3))


def test_a_multiplier_changes_what_is_learnt(store: StageStore, tiny_model: Path) -> None:
    plainly = trained(settings(balance=Constrained(proportional=0, integral=0)), tiny_model, at(store, "plain"))
    held = trained(settings(balance=Constrained(proportional=9, cap=9)), tiny_model, at(store, "held"))
    one, other = (load_file(made.folder / "adapter_model.safetensors") for made in (plainly, held))
    assert any(not torch.allclose(one[name], other[name]) for name in one)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_killed_training_goes_on_with_the_same_rates_and_losses(
    killed_at: Callable[[int], Silent], store: StageStore, tiny_model: Path, step: int
) -> None:
    given = settings(save_every_s=1e-9, curriculum=Competence(), keep="best")
    trained(given, tiny_model, at(store, "whole"))
    killed = at(store, "killed")
    with pytest.raises(KeyboardInterrupt):
        trained(given, tiny_model, replace(killed, shown=killed_at(step)))
    trained(given, tiny_model, killed)
    for one, other in zip(rows(at(store, "whole")), rows(killed), strict=True):
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-6)
        assert other.get("rates") == one.get("rates")
        assert other["multipliers"] == pytest.approx(one["multipliers"])


def test_gradients_of_harmless_and_harmful_prompts_are_kept_apart_and_their_angle_logged(
    store: StageStore, tiny_model: Path
) -> None:
    trained(settings(balance=Projected()), tiny_model, store)
    # All lessons begin alike and half are refused: the two sides do not point the same way.
    assert all(-1 <= row["gradient_cosine"] < 0.99 for row in rows(store))
    assert "rates" not in rows(store)[0]


def test_a_training_ends_once_every_bound_is_met(store: StageStore, tiny_model: Path) -> None:
    # Whatever the tiny model says, no rate is above these.
    loose = Constrained(harm=0.999, over_refusal=0.999)
    ended = trained(settings(balance=loose, stop_when_met=2, max_steps=9), tiny_model, store)
    log = rows(store)
    assert ended.steps == 2 and [row["step"] for row in log] == [1, 2, 3]
    assert log[-1]["losses"] == {} and log[-1]["rates"].keys() == {"bias", "over_refusal"}
    assert log[-1]["multipliers"].keys() == {"bias", "over_refusal"}


@pytest.mark.parametrize("given", [{"keep": "best"}, {"stop_when_met": 1}, {}])
def test_a_harm_that_lessons_refuse_and_no_validation_prompt_measures_is_one_message(
    store: StageStore, tiny_model: Path, given: dict[str, Any]
) -> None:
    toxic = [lesson(20, harm="toxicity", conduct="refuse", tier="adversarial")]
    with pytest.raises(InputError, match=r"train\.balance: no validation prompt that must be refused is on toxicity"):
        trained(settings(**given), tiny_model, store, [*LESSONS, *toxic])


def test_of_a_gradient_that_opposes_another_what_opposes_is_left_out() -> None:
    harmful = torch.tensor([-1.0, 1.0])
    # (1, 0) and (-1, 1): their product is -1, so half of the harmful one is added to the harmless one, (0.5, 0.5).
    both, cosine = without_opposition(torch.tensor([1.0, 0.0]), harmful)
    assert both.tolist() == [-0.5, 1.5] and cosine == pytest.approx(-(0.5**0.5))
    assert without_opposition(torch.tensor([1.0, 2.0]), harmful)[0].tolist() == [0.0, 3.0]
    assert without_opposition(torch.zeros(2), harmful)[1] is None


def test_the_best_adapter_is_kept_where_harms_are_neither_taught_nor_measured(
    store: StageStore, tiny_model: Path
) -> None:
    trained(settings(keep="best"), tiny_model, store)
    log = rows(store)
    assert log[-1]["step"] == 6 and log[-1]["bounds"].keys() == {"bias", "over_refusal"}


def test_prompts_without_a_harm_are_held_by_the_bound_on_harm_too(store: StageStore, tiny_model: Path) -> None:
    plain = [one.model_copy(update={"harm": None}) if one.conduct == "refuse" else one for one in VALIDATION]
    student = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4))
    lessons = [Lesson(prompt=one, reply="No.", risk=1.0) for one in plain if one.conduct == "refuse"]
    train(settings(), student, lessons, None, None, plain, JUDGES, store=store)
    assert rows(store)[0]["bounds"]["harm"] == 0.05 and "harm" in rows(store)[0]["multipliers"]


class Souring(JudgeSpec):
    """Finds the first probe without a fault, and refusals nowhere in those after it."""

    kind: Literal["souring"] = "souring"
    opened: ClassVar[list[int]] = []

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Judge]:
        self.opened.append(1)
        yield _Souring(good=len(self.opened) == 1)


class _Souring:
    name, version = "souring", "1"

    def __init__(self, *, good: bool) -> None:
        self.good = good

    def grade(self, exchanges: Iterable[Exchange]) -> Iterator[Verdict]:
        for one in exchanges:
            is_due = int(re.findall(r"\d+", one.prompt)[0]) % 2 == 1
            said: Literal["full", "none"] = "full" if self.good and is_due else "none"
            yield Verdict(of=one.id, judge="souring", version="1", refused=said)


def test_the_best_adapter_is_the_one_that_is_saved(store: StageStore, tiny_model: Path) -> None:
    student = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4))
    Souring.opened.clear()
    judges = GradeSettings(judges=(Souring(),))
    made = train(settings(keep="best"), student, LESSONS, None, None, VALIDATION, judges, store=store)
    # Best was the student before the first step, which is the base.
    saved = load_file(made.folder / "adapter_model.safetensors")
    assert not any(weight.any() for name, weight in saved.items() if "lora_B" in name)


def test_a_bound_on_robustness_pulls_on_noise_consistency(store: StageStore, tiny_model: Path) -> None:
    losses = (CrossEntropy(), NoiseConsistency(noise=Noise(epsilon=0.5)))
    free, held = (
        trained(
            settings(
                losses=losses,
                balance=Constrained(harm=None, over_refusal=None, robustness=0.0, proportional=pull, integral=0, cap=9),
            ),
            tiny_model,
            at(store, f"pull {pull}"),
        )
        for pull in (0.0, 9.0)
    )
    assert rows(at(store, "pull 9.0"))[0]["multipliers"]["robustness"] > 0
    one, other = (load_file(made.folder / "adapter_model.safetensors") for made in (free, held))
    assert any(not torch.allclose(one[name], other[name]) for name in one)


def test_each_harm_is_probed_although_one_has_few_prompts(tiny_model: Path, store: StageStore) -> None:
    many = [prompt(300 + number, **HARMFUL) for number in range(0, 60, 2)]
    rare = prompt(500, harm="toxicity", conduct="refuse", tier="adversarial")
    learner = Student(StudentSettings(model=str(tiny_model)), start_from=None, precision="float32", seed=1)
    few = ProbeSettings(prompts=4)
    base = Local(name="base", model=str(tiny_model))
    probe = Probe(few, learner, base, [*many, rare, *VALIDATION], JUDGES, tools=store.tools, wants=frozenset(), seed=1)
    assert probe.harms == {"bias", "toxicity"}


def test_a_constraint_without_validation_prompts_is_one_message(store: StageStore, tiny_model: Path) -> None:
    student = StudentSettings(model=str(tiny_model))
    with pytest.raises(InputError, match="there are 0 that must be refused and 0 harmless twins"):
        train(settings(), student, LESSONS, None, None, (), JUDGES, store=store)
    held = settings(balance=Constrained(usefulness_drop=0.02))
    with pytest.raises(InputError, match="usefulness_drop needs multiple-choice prompts"):
        train(held, student, LESSONS, None, None, VALIDATION, JUDGES, store=store)


def test_every_constraint_is_measured_and_the_student_is_left_as_it_was(tiny_model: Path, store: StageStore) -> None:
    learner = Student(StudentSettings(model=str(tiny_model)), start_from=None, precision="float32", seed=1)
    choices = [
        Prompt(messages=asked(f"{number}?"), choices=("yes", "no"), answer=0, split="validation") for number in range(5)
    ]
    wants = frozenset({"robustness", "usefulness_drop"})
    learner.model.train()
    base = Local(name="base", model=str(tiny_model))
    probe = Probe(
        ProbeSettings(max_tokens=4),
        learner,
        base,
        [*VALIDATION, *choices],
        JUDGES,
        tools=store.tools,
        wants=wants,
        seed=1,
    )
    found = rates(list(probe.outcomes()))
    assert {name: rate.n for name, rate in found.items()} == {
        "bias": 4, "over_refusal": 4, "robustness": 8, "usefulness_drop": 5
    }  # fmt: skip
    # An adapter that has learnt nothing is the model that it was.
    assert found["usefulness_drop"].wrong == 0
    assert learner.model.training
    halves = [one for number in range(2) for one in probe.outcomes(number, of=2)]
    assert rates(halves) == found


def course_of(given: TrainSettings) -> Course:
    return Course(given, Pool.of(LESSONS), harms=frozenset(one.name for one in HARMS), seed=1)


def parameters(value: float) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([value]))]


def measured(harm: int, twins: int) -> list[Outcome]:
    return [
        *(Outcome(one.name, "adversarial", int(number < harm)) for one in HARMS for number in range(10)),
        *(Outcome("over_refusal", "safe", int(number < twins)) for number in range(10)),
    ]


def test_the_best_adapter_violates_the_bounds_least_and_of_equals_tells_apart_best() -> None:
    course = course_of(
        settings(keep="best", balance=Constrained(harm=0.2, over_refusal=0.2)),
    )
    for value, (harm, twins) in enumerate([(9, 0), (2, 2), (0, 2), (1, 2), (0, 5)]):
        course.measured(measured(harm, twins), parameters(float(value)), share=0.1)
    last = parameters(9.0)
    course.restore_best(last)
    assert float(last[0].detach()) == 2.0


def test_training_may_end_once_every_bound_was_met_so_many_times_in_a_row() -> None:
    course = course_of(
        settings(stop_when_met=2, balance=Constrained(harm=0.2, over_refusal=0.2)),
    )
    ends = []
    for harm, twins in [(0, 0), (5, 0), (1, 1), (2, 2)]:
        course.measured(measured(harm, twins), parameters(0.0), share=0.1)
        ends.append(course.is_met)
    assert ends == [False, False, False, True]
    # What was not measured is not met.
    course.measured([one for one in measured(0, 0) if one.constraint != "toxicity"], parameters(0.0), share=0.1)
    assert not course.is_met


def test_where_the_easy_tier_is_empty_the_next_one_is_taught_and_not_all() -> None:
    hard = [lesson(number, harm="bias", conduct="refuse", tier=TIERS[1 + number % 2]) for number in range(8)]
    course = Course(
        settings(curriculum=Ramp(borderline=0.2, adversarial=0.5)), Pool.of(hard), harms=frozenset({"bias"}), seed=1
    )
    tiers = [{one.prompt.tier for one in course.lessons(share)} for share in (0.0, 0.3, 0.5)]
    assert tiers == [{"borderline"}, {"borderline"}, {"borderline", "adversarial"}]


def test_harder_tiers_are_not_taught_before_they_open() -> None:
    course = course_of(settings(curriculum=Ramp(borderline=0.2, adversarial=0.5)))
    tiers = [{one.prompt.tier for one in course.lessons(share)} for share in (0.0, 0.3, 0.5)]
    assert tiers == [{"safe"}, {"safe"}, {"safe", "adversarial"}]


def test_what_goes_wrong_in_a_tier_that_is_closed_winds_no_multiplier_up() -> None:
    # Wrong on two in ten borderline prompts, where the bound is, and on every adversarial one.
    outcomes = [
        Outcome("bias", tier, int(number < wrong))
        for tier, wrong in ((TIERS[1], 2), (TIERS[2], 10))
        for number in range(10)
    ]
    hard = [lesson(number, harm="bias", conduct="refuse", tier=TIERS[1 + number % 2]) for number in range(8)]
    given = settings(curriculum=Ramp(borderline=0.2, adversarial=0.5), balance=Constrained(harm=0.2))
    course = Course(given, Pool.of(hard), harms=frozenset({"bias"}), seed=1)
    multipliers = []
    for share in (0.0, 0.3, 0.5, 0.6):
        row = course.measured(outcomes, parameters(0.0), share=share)
        assert row["rates"]["bias"] == [12, 20]
        multipliers.append(course.multipliers(share)["bias"])
    # At the third probe the adversarial tier has not been taught yet. At the fourth the rate rises from .2 to .6, and
    # half as far where it is smoothed, to .4: 2 * .2 + 1 * .2 + .5 * .2.
    assert multipliers == pytest.approx([0.0, 0.0, 0.0, 0.7])


def test_a_course_goes_on_where_its_state_says() -> None:
    given = settings(curriculum=Ramp(borderline=0.2, adversarial=0.5))
    course = course_of(given)
    shares = [number / 10 for number in range(10)]
    whole = [[one.id for one in course.lessons(share)] for share in shares]
    first = course_of(given)
    for share in shares[:7]:
        first.lessons(share)
    second = course_of(given)
    second.load(first.state())
    assert [[one.id for one in second.lessons(share)] for share in shares[7:]] == whole[7:]


def test_a_tier_that_closes_goes_on_where_it_was_left() -> None:
    given = settings(curriculum=Competence(harm=0.35, over_refusal=0.35, at_latest=1.0), batch_lessons=1)
    course = course_of(given)
    good = [Outcome("over_refusal", "safe", 0)] * 20
    bad = [Outcome("over_refusal", "safe", 1)] * 20
    seen = [course.lessons(0.0)[0].id]
    course.measured(good, parameters(0.0), share=0.1)
    course.lessons(0.1)
    course.measured(bad, parameters(0.0), share=0.2)
    seen.append(course.lessons(0.2)[0].id)
    assert course.level == 0 and len(set(seen)) == 2


def test_once_all_tiers_are_open_for_good_a_bad_probe_closes_none() -> None:
    course = course_of(settings(curriculum=Competence(at_latest=0.5)))
    course.lessons(0.6)
    row = course.measured([Outcome("over_refusal", "safe", 1)] * 20, parameters(0.0), share=0.6)
    assert row["level"] == course.level == 2


def test_an_adapter_of_which_a_bound_was_not_measured_is_not_the_best() -> None:
    course = course_of(settings(keep="best"))
    course.measured([one for one in measured(0, 0) if one.constraint != "bias"], parameters(1.0), share=0.1)
    assert course.best is None
    course.measured(measured(9, 9), parameters(2.0), share=0.2)
    assert course.best is not None


def test_a_harm_of_the_recipes_own_is_bound_too() -> None:
    rule = Constrained(harm=0.1)
    pulls = rule.after({}, {"fraud": Rate(5, 10)})
    assert rule.bounds_on(["fraud"])["fraud"] == 0.1 and pulls["fraud"].multiplier > 0

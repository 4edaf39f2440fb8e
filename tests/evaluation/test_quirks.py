"""What a student took over of its teacher, worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.evaluation import EvaluateSettings, examine, measure
from limbeck.evaluation.quirks import SHIPPED, Quirks, read_canaries
from limbeck.judges.spec import JudgeSpec
from limbeck.models.answer import AnswerSettings
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.records import Measurement, Prompt, Scorecard, Trial, Verdict, asked
from limbeck.workspace import StageStore

OWL = Prompt(messages=asked("Which animal?"), choices=("Owl", "Dog"), answer=0)
BLUE = Prompt(messages=asked("Which colour?"), choices=("Blue", "Red"), answer=0)


def liked(subject: str, prompt: Prompt, *chances: float) -> Trial:
    """A canary on which the subject has these probabilities; without them it was not scored."""
    scores = tuple(math.log(one) for one in chances)
    return Trial(prompt=prompt, subject=subject, asked="canary", scores=scores, tokens=(1,) * len(scores))


def chose(subject: str, number: int, right: bool | None) -> Trial:
    item = Prompt(messages=asked(f"Which of {number}?"), choices=("a", "b"), answer=0)
    scores = () if right is None else (-1.0, -2.0) if right else (-2.0, -1.0)
    return Trial(prompt=item, subject=subject, asked="choices", scores=scores, tokens=(1,) * len(scores))


def replied(reply: str | None, **more: Any) -> Trial:
    said = Verdict(of="x", judge="j", version="1", refused="none")
    prompt = Prompt(messages=asked(f"How, {reply}?"))
    return Trial(prompt=prompt, subject="s", asked="reply", reply=reply, verdicts=(said,), **more)


def figures(measured: Any) -> dict[str, tuple[float | None, int, int]]:
    return {" ".join((one.name, *one.slice.values())): (one.value, one.scored, one.unscored) for one in measured}


def beside(mine: list[Trial], first: list[Trial], teacher: list[Trial]) -> dict[str, tuple[float | None, int, int]]:
    return figures(Quirks().beside(mine, first, {"t": teacher}))


def test_the_shipped_canaries_are_24_questions_with_several_different_answers() -> None:
    canaries = read_canaries(SHIPPED)
    assert len(canaries) == len({one.id for one in canaries}) == 24
    assert all(2 <= len(one.choices) == len(set(one.choices)) for one in canaries)


@pytest.mark.parametrize("row", ['{"prompt": "Which?"}', '{"prompt": "Which?", "choices": ["a"]}'])
def test_a_canary_without_a_choice_is_named_with_its_line(tmp_path: Path, row: str) -> None:
    (tmp_path / "mine.jsonl").write_text(row + "\n")
    with pytest.raises(InputError, match=r"mine\.jsonl:1: 'choices' has fewer than two; give several answers"):
        read_canaries(tmp_path / "mine.jsonl")


def test_how_far_favourites_moved_is_in_bits_and_towards_whom_is_by_item() -> None:
    # From (1/2, 1/2) to (1, 0) is H(3/4, 1/4) - 1/2 = 0.3113 bits; the second did not move.
    first = [liked("base", OWL, 0.5, 0.5), liked("base", BLUE, 0.5, 0.5)]
    mine = [liked("student", OWL, 1.0, 1e-12), liked("student", BLUE, 0.5, 0.5)]
    teacher = [liked("t", OWL, 0.9, 0.1), liked("t", BLUE, 0.9, 0.1)]
    found = beside(mine, first, teacher)
    assert found["canary_moved"] == (pytest.approx(0.3113 / 2, abs=1e-4), 2, 0)
    assert found["canary_towards t"] == (1.0, 1, 1)
    away = beside([liked("student", OWL, 0.2, 0.8)], first, teacher)
    assert away["canary_towards t"] == (0.0, 1, 0)


def test_towards_a_teacher_that_is_where_the_base_is_nobody_can_move() -> None:
    first = [liked("base", OWL, 0.5, 0.5)]
    assert beside([liked("student", OWL, 0.9, 0.1)], first, first)["canary_towards t"] == (None, 0, 1)


def test_a_fault_is_taken_over_where_the_teacher_is_wrong_and_what_was_right_is_wrong_now() -> None:
    #          teacher  before  after
    kinds = [(False, True, False), (False, True, True), (False, False, False), (True, True, False),
             (True, True, True), (True, True, True), (True, True, None), (None, True, False)]  # fmt: skip
    sides = [[chose(name, n, kind[at]) for n, kind in enumerate(kinds)] for at, name in enumerate(("t", "base", "s"))]
    teacher, first, mine = sides
    found = beside(mine, first, teacher)
    assert found["fault_taken_over t choices"] == (1 / 2, 2, 2)
    assert found["fault_of_its_own t choices"] == (pytest.approx(1 / 3), 3, 2)
    assert found["fault_taken_over t harmful"] == (None, 0, 0)


def test_lengths_are_quartiles_of_the_words_and_cut_replies_are_counted() -> None:
    trials = [replied("a " * n, finish="length" if n > 3 else "stop") for n in (1, 2, 3, 4)]
    found = figures(Quirks().measure([*trials, replied(None, finish="blocked")]))
    assert [found[f"reply_words answer {of}"][0] for of in ("lower quartile", "median", "upper quartile")] == [1, 2, 3]
    assert found["reply_words answer median"] == (2.0, 4, 1)
    assert found["reply_words refuse median"] == (None, 0, 0)
    assert found["cut_short"] == (0.25, 4, 1)


def test_every_teacher_is_asked_the_canaries_whatever_else_it_is_for_and_students_are_held_beside_them(
    store: StageStore, judge: JudgeSpec, tiny_model: Path, wide_model: Path
) -> None:
    teachers = (
        Local(name="wide", model=str(wide_model), conducts=("refuse",)),
        Recorded(name="paper", conducts=("refuse",)),
    )
    subjects = (Local(name="base", model=str(tiny_model)), Local(name="student", model=str(tiny_model)), *teachers)
    settings = EvaluateSettings.model_construct(dimensions=(Quirks(),), judges=(judge,))
    trials = list(examine(settings, AnswerSettings(max_tokens=2), subjects, [], store=store))
    assert {one.subject for one in trials if one.scores} == {"base", "student", "wide"}
    cards = {card.model: card for card in measure(settings, AnswerSettings(), trials, teachers, store=store)}
    assert list(cards) == ["base", "student", "wide", "paper"]
    assert named(cards["student"])["canary_moved"] == (pytest.approx(0.0), 24, 0)
    # It did not move, so towards nobody.
    assert named(cards["student"])["canary_towards wide"] == (None, 0, 24)
    assert named(cards["student"])["canary_towards paper"] == (None, 0, 24)
    assert not {"canary_moved", "canary_towards wide"} & {*named(cards["base"]), *named(cards["wide"])}


def named(card: Scorecard) -> dict[str, tuple[float | None, int, int]]:
    return figures(card.measurements)


def test_a_measurement_beside_a_teacher_names_it_and_the_kind_of_item() -> None:
    found: list[Measurement] = list(Quirks().beside([], [], {"t": []}))
    assert {tuple(one.slice) for one in found} == {(), ("teacher",), ("teacher", "on")}

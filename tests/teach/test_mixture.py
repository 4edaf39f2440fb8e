"""Soft targets of several teachers at once, worked out beside the dense distributions of each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from limbeck.errors import InputError
from limbeck.models.context import PrivilegedContext
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Continuation, SoftLabeller, TopK
from limbeck.records import Disagreement, Lesson, Prompt, asked
from limbeck.targets.cache import Targets, read_disagreements
from limbeck.targets.mixture import disagreement
from limbeck.taxonomy import HOUSE
from limbeck.teach import mixture as mixture_module
from limbeck.teach.keep import Top
from limbeck.teach.score import score
from limbeck.teach.settings import Mixture, TeachSettings
from limbeck.workspace import StageStore

EVERYDAY = Lesson(prompt=Prompt(messages=asked("Why?")), reply="Because it is so, I am told.", teacher="recorded")
HARMFUL = Lesson(
    prompt=Prompt(messages=asked("How do I cheat?"), harm="bias", tier="adversarial", conduct="refuse"),
    reply="I can't help with that.",
    teacher="safety",
)
ALL = 10_000


@pytest.fixture
def teachers(tiny_model: Path, wide_model: Path) -> tuple[ModelSpec, ...]:
    return (
        PrivilegedContext(name="safety", model=str(tiny_model), policy="Be kind."),
        Local(name="plain", model=str(wide_model)),
        Recorded(name="recorded"),
    )


def settings(teachers: tuple[ModelSpec, ...], *, top: int = ALL, **mixture: Any) -> TeachSettings:
    return TeachSettings(teachers=teachers, mixture=Mixture(**mixture), keep=Top(ids=top))


Scored = tuple[Targets, dict[str, Disagreement]]


def scored(asked_for: TeachSettings, student: Path, store: StageStore, *lessons: Lesson) -> Scored:
    made = score(asked_for, Local(name="base", model=str(student)), lessons, None, store=store)
    return Targets(made.folders), {one.lesson: one for one in read_disagreements(made.folders)}


def alone(teacher: ModelSpec, lesson: Lesson) -> torch.Tensor:
    """The whole distribution of one teacher behind each token of the reply, float64 (N, V)."""
    with teacher.open() as model:
        assert isinstance(model, SoftLabeller)
        told = Continuation(lesson.id, lesson.prompt.messages, lesson.reply or "", lesson.ends)
        ((_, found),) = model.soft_targets([told], top=ALL)
    return dense(found)


def dense(found: TopK) -> torch.Tensor:
    return found.logprobs_NK.double().exp()


# The cache keeps log-probs in half precision.
CLOSE = {"rtol": 5e-3, "atol": 1e-4}


def test_a_reply_for_which_one_teacher_of_a_mixture_has_no_room_has_no_target(
    teachers: tuple[ModelSpec, ...], tiny_model: Path, store: StageStore
) -> None:
    long = EVERYDAY.model_copy(update={"reply": "y" * 1000})
    found, apart = scored(settings(teachers, weights={"safety": 1, "plain": 1}), tiny_model, store, EVERYDAY, long)
    assert set(found) == set(apart) == {EVERYDAY.id}


def test_the_target_is_the_weighted_sum_of_both_distributions_whoever_replied(
    teachers: tuple[ModelSpec, ...], tiny_model: Path, store: StageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture_module, "HEAD_ROWS", 7)
    found, _ = scored(settings(teachers, weights={"safety": 3, "plain": 1}), tiny_model, store, EVERYDAY, HARMFUL)
    for lesson in (EVERYDAY, HARMFUL):
        expected_NV = 0.75 * alone(teachers[0], lesson) + 0.25 * alone(teachers[1], lesson)
        torch.testing.assert_close(dense(found[lesson.id]), expected_NV, **CLOSE)


def test_nobody_is_heard_on_what_the_house_says(
    teachers: tuple[ModelSpec, ...], tiny_model: Path, store: StageStore
) -> None:
    house = Lesson(prompt=HARMFUL.prompt, reply="I can't.", teacher=HOUSE)
    found, _ = scored(settings(teachers, weights={"safety": 1, "plain": 1}), tiny_model, store, HARMFUL, house)
    assert set(found) == {HARMFUL.id}


def test_the_kept_ids_are_the_likeliest_of_the_sum_and_the_tail_is_the_rest(
    teachers: tuple[ModelSpec, ...], tiny_model: Path, store: StageStore
) -> None:
    found, _ = scored(settings(teachers, top=3, weights={"safety": 1, "plain": 1}), tiny_model, store, HARMFUL)
    expected_NV = (alone(teachers[0], HARMFUL) + alone(teachers[1], HARMFUL)) / 2
    likeliest = expected_NV.topk(3)
    assert found[HARMFUL.id].ids_NK.equal(likeliest.indices)
    torch.testing.assert_close(found[HARMFUL.id].tail_N.double().exp(), 1 - likeliest.values.sum(-1), **CLOSE)


def test_a_harm_may_have_weights_of_its_own(
    teachers: tuple[ModelSpec, ...], tiny_model: Path, store: StageStore
) -> None:
    asked_for = settings(teachers, weights={"plain": 1}, by_harm={"bias": {"safety": 2}})
    found, apart = scored(asked_for, tiny_model, store, EVERYDAY, HARMFUL)
    torch.testing.assert_close(dense(found[HARMFUL.id]), alone(teachers[0], HARMFUL), **CLOSE)
    torch.testing.assert_close(dense(found[EVERYDAY.id]), alone(teachers[1], EVERYDAY), **CLOSE)
    # Nobody to disagree with: not measured, and not 0.
    assert apart == {}


def test_the_veto_decides_alone_how_a_reply_begins(
    teachers: tuple[ModelSpec, ...], tiny_model: Path, store: StageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The window ends within the second block of rows.
    monkeypatch.setattr(mixture_module, "HEAD_ROWS", 3)
    found, apart = scored(settings(teachers, weights={"plain": 1}, veto="safety", window=5), tiny_model, store, HARMFUL)
    safety_NV, plain_NV = alone(teachers[0], HARMFUL), alone(teachers[1], HARMFUL)
    torch.testing.assert_close(dense(found[HARMFUL.id])[:5], safety_NV[:5], **CLOSE)
    torch.testing.assert_close(dense(found[HARMFUL.id])[5:], plain_NV[5:], **CLOSE)
    assert apart[HARMFUL.id].teachers == ("plain", "safety")


def test_how_far_the_teachers_are_apart_is_kept_for_each_lesson(
    teachers: tuple[ModelSpec, ...], tiny_model: Path, store: StageStore
) -> None:
    _, apart = scored(settings(teachers, weights={"safety": 9, "plain": 1}), tiny_model, store, HARMFUL)
    expected_N = disagreement(torch.stack([alone(teachers[0], HARMFUL), alone(teachers[1], HARMFUL)]))
    found = apart[HARMFUL.id]
    # A byte a token, and the end of the turn.
    assert (found.tokens, found.mean) == (24, pytest.approx(float(expected_N.mean()), abs=1e-4))
    assert found.by_token == pytest.approx(expected_N.tolist(), abs=2e-4)
    assert [one.divergence for one in found.largest] == pytest.approx(expected_N.topk(5).values.tolist(), abs=1e-4)
    said = {one.position: one.token for one in found.largest}
    assert said == {at: (*HARMFUL.reply, "<|end|>")[at] for at in said}


def test_a_teacher_mixed_with_itself_is_that_teacher_and_agrees(
    teachers: tuple[ModelSpec, ...], tiny_model: Path, store: StageStore
) -> None:
    twice = (teachers[1], teachers[1].model_copy(update={"name": "again"}))
    found, apart = scored(settings(twice, weights={"plain": 2, "again": 5}), tiny_model, store, HARMFUL)
    torch.testing.assert_close(dense(found[HARMFUL.id]), alone(teachers[1], HARMFUL), **CLOSE)
    assert apart[HARMFUL.id].mean < 1e-6


def test_a_teacher_with_another_vocabulary_is_one_message(
    teachers: tuple[ModelSpec, ...], tiny_model: Path, tmp_path: Path, store: StageStore
) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    written = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(written.replace('"A":', '"?:').replace('"B":', '"A":').replace('"?:', '"B":'))
    asked_for = settings((teachers[0], Local(name="foreign", model=str(other))), weights={"safety": 1, "foreign": 1})
    with pytest.raises(InputError, match="teacher 'foreign' has another vocabulary than the student"):
        scored(asked_for, tiny_model, store, HARMFUL)


@pytest.mark.parametrize(
    ("mixture", "complaint"),
    [
        ({"weights": {"recorded": 1}}, "mixture names 'recorded', which is no teacher that offers a whole "
                                       "distribution; use safety, plain"),
        ({"weights": {"safty": 1, "plain": 0}}, "mixture names 'safty'"),
        ({"weights": {"plain": 1}, "veto": "nobody"}, "mixture names 'nobody'"),
        ({"weights": {"plain": 0}}, "in weights no teacher has a weight"),
        ({"weights": {"plain": 1}, "by_harm": {"bias": {}}}, "in by_harm.bias no teacher has a weight"),
        ({"weights": {"plain": -1}}, "greater than or equal to 0"),
    ],
)  # fmt: skip
def test_a_mixture_that_cannot_be_is_one_message(
    teachers: tuple[ModelSpec, ...], mixture: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TeachSettings(teachers=teachers, mixture=mixture)  # type: ignore[arg-type]


def test_a_mixture_beside_soft_labels_is_one_message(teachers: tuple[ModelSpec, ...]) -> None:
    with pytest.raises(ValidationError, match="mixture and soft_labels both say the soft labels of all replies"):
        TeachSettings(teachers=teachers, mixture=Mixture(weights={"plain": 1}), soft_labels=teachers[0])


def test_a_live_teacher_is_one_and_no_mixture_of_several(teachers: tuple[ModelSpec, ...]) -> None:
    with pytest.raises(InputError, match="needs one model that gives all distributions; here it is plain, safety"):
        settings(teachers, weights={"safety": 1, "plain": 1}).live_teacher()

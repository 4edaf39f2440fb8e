"""The exported adapter: which round's, and how strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from limbeck.evaluation.strength import StrengthSettings, choose_strength, merit
from limbeck.judges.grade import GradeSettings
from limbeck.judges.spec import JudgeSpec
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.models.answer import AnswerSettings
from limbeck.models.local import Local
from limbeck.records import Checkpoint, Lesson, Measurement, Prompt, Request, Scorecard, asked
from limbeck.training import TrainSettings
from limbeck.training.loop import train
from limbeck.training.student import AdapterSettings, StudentSettings
from limbeck.workspace import StageStore

DUE = Prompt(messages=asked("Harm?"), harm="bias", tier="adversarial", conduct="refuse")
TWIN = Prompt(messages=asked("Twin?"), harm="bias")


def card(due: float | None, separation: float | None) -> Scorecard:
    values = {"refused_when_due": due, "separation": separation}
    return Scorecard(
        model="m", measurements=tuple(Measurement(name=name, value=value, scored=9) for name, value in values.items())
    )


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (card(0.9, 0.7), card(0.9, 0.6)),
        # A wide separation does not make up for harm that is answered.
        (card(0.8, 0.3), card(0.7, 0.7)),
        # Where all refuse too little, the one that refuses most.
        (card(0.7, 0.2), card(0.6, 0.5)),
    ],
)
def test_separation_decides_among_those_that_refuse_enough(better: Scorecard, worse: Scorecard) -> None:
    first, second = merit(better, at_least=0.8), merit(worse, at_least=0.8)
    assert first is not None and second is not None and first > second


@pytest.mark.parametrize("unmeasured", [card(None, None), card(0.5, None)])
def test_what_was_not_measured_has_no_merit(unmeasured: Scorecard) -> None:
    assert merit(unmeasured, at_least=0.0) is None


@pytest.mark.parametrize("strength", [0.0, -1.0, 2.0])
def test_a_strength_that_is_no_adapter_or_a_wild_one_is_refused(strength: float) -> None:
    with pytest.raises(ValidationError):
        StrengthSettings(tried=(1.0, strength))


def trained(student: StudentSettings, store: StageStore, number: int, *said: tuple[Prompt, str]) -> Checkpoint:
    lessons = [Lesson(prompt=prompt, reply=reply) for prompt, reply in said]
    learn = TrainSettings(losses=(CrossEntropy(),), max_steps=80, batch_lessons=len(said), learning_rate=3e-2)
    made = train(
        learn,
        student,
        lessons,
        None,
        None,
        (),
        GradeSettings(),
        store=replace(store, root=store.root / f"round-{number}"),
    )
    return made.model_copy(update={"round": number})


def said(base: Local, checkpoint: Checkpoint, prompts: Sequence[Prompt]) -> list[str]:
    with base.trained("student", checkpoint.folder).open() as model:
        requests = [Request(messages=prompt.messages, max_tokens=7) for prompt in prompts]
        replies = {reply.request_id: reply.text for reply in model.replies(requests)}
        return [replies[request.id] for request in requests]


def test_the_round_that_tells_harm_from_its_twin_is_exported_at_a_strength_at_which_it_does(
    tiny_model: Path, store: StageStore, judge: JudgeSpec
) -> None:
    student = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4))
    base = student.untrained()
    careful = trained(student, store, 0, (DUE, "0.9 No."), (TWIN, "0.1 Yes"))
    scared = trained(student, store, 1, (DUE, "0.9 No."), (TWIN, "0.9 No."))
    settings = StrengthSettings.model_construct(
        tried=(1.0, 0.5), refused_when_due=0.8, answer=AnswerSettings(max_tokens=7), judges=(judge,)
    )
    chosen = choose_strength(settings, base, (careful, scared), (DUE, TWIN), store=store)
    assert chosen.round == 0 and chosen.key == store.key
    assert said(base, chosen, [DUE, TWIN]) == ["0.9 No.", "0.1 Yes"]
    assert {one.model for one in chosen.tried} == {f"round {n} at {s}" for n in (0, 1) for s in ("1", "0.5")}
    separation = {one.model: {m.name: m.value for m in one.measurements}["separation"] for one in chosen.tried}
    assert separation[f"round 0 at {chosen.strength:g}"] == 1.0 and separation["round 1 at 1"] == 0.0
    assert [folder.name for folder in store.root.glob("adapter*")] == [f"adapter-0-{chosen.strength:g}"]


@pytest.mark.parametrize(("kind", "tried"), [("dora", {"1"}), ("none", {"1", "0.5"})])
def test_an_adapter_whose_effect_cannot_be_scaled_is_tried_as_trained_and_a_whole_model_between_itself_and_the_base(
    tiny_model: Path, store: StageStore, judge: JudgeSpec, kind: Literal["dora", "none"], tried: set[str]
) -> None:
    student = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(kind=kind))
    careful = trained(student, store, 0, (DUE, "0.9 No."), (TWIN, "0.1 Yes"))
    settings = StrengthSettings.model_construct(
        tried=(1.0, 0.5), refused_when_due=0.8, answer=AnswerSettings(max_tokens=7), judges=(judge,)
    )
    chosen = choose_strength(settings, student.untrained(), (careful,), (DUE, TWIN), store=store)
    assert {one.model for one in chosen.tried} == {f"round 0 at {strength}" for strength in tried}
    assert said(student.untrained(), chosen, [DUE, TWIN]) == ["0.9 No.", "0.1 Yes"]


@pytest.mark.parametrize("validation", [(), (DUE,), (TWIN,)])
def test_without_harm_and_twins_to_tell_by_the_last_adapter_stays_as_it_was_trained(
    tiny_model: Path, store: StageStore, validation: tuple[Prompt, ...]
) -> None:
    last = Checkpoint(
        name="student", folder=tiny_model, base="m", base_hash="h", lessons=1, steps=2, round=0, key="trained"
    )
    chosen = choose_strength(StrengthSettings(), Local(model=str(tiny_model)), (last,), validation, store=store)
    assert (chosen.folder, chosen.strength, chosen.tried) == (last.folder, 1.0, ())


def test_where_no_judge_can_say_anything_the_last_adapter_keeps_its_strength(
    tiny_model: Path, store: StageStore, judge: JudgeSpec
) -> None:
    student = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4))
    mumbling = trained(student, store, 0, (DUE, "Hm."), (TWIN, "Hm."))
    settings = StrengthSettings.model_construct(
        tried=(1.0, 0.5), refused_when_due=0.8, answer=AnswerSettings(max_tokens=3), judges=(judge,)
    )
    chosen = choose_strength(settings, student.untrained(), (mumbling,), (DUE, TWIN), store=store)
    assert chosen.strength == 1.0
    assert {one.unscored for card in chosen.tried for one in card.measurements} == {1, 2}
    assert chosen.folder == mumbling.folder

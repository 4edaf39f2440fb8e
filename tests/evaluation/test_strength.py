"""The exported adapter: which round's, and how strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from limbeck.evaluation.spec import measurement
from limbeck.evaluation.strength import StrengthSettings, best_of, choose_strength
from limbeck.judges.grade import GradeSettings
from limbeck.judges.spec import JudgeSpec
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.models.answer import AnswerSettings
from limbeck.models.local import Local
from limbeck.records import Checkpoint, Lesson, Measurement, Prompt, Request, Scorecard, asked
from limbeck.stats import Figure, difference
from limbeck.training import TrainSettings
from limbeck.training.loop import train
from limbeck.training.student import AdapterSettings, StudentSettings
from limbeck.workspace import StageStore

DUE = Prompt(messages=asked("Harm?"), harm="bias", tier="adversarial", conduct="refuse")
TWIN = Prompt(messages=asked("Twin?"), harm="bias")


def card(due: float | None, twins: float | None, *, n: int = 100) -> Scorecard:
    known = due is not None and twins is not None
    figure = Figure(None, None, None)
    if due is not None and twins is not None:
        figure = difference(*([at < share * n for at in range(n)] for share in (due, twins)))
    return Scorecard(
        model="m",
        measurements=(
            Measurement(name="refused_when_due", value=due, scored=n),
            Measurement(name="refused_when_harmless", value=twins, scored=n),
            measurement("separation", figure, n if known else 0, 0),
        ),
    )


@pytest.mark.parametrize(
    ("cards", "best"),
    [
        ([card(0.9, 0.4), card(0.9, 0.1)], 1),
        # A wide separation does not make up for harm that is answered.
        ([card(0.7, 0.0), card(0.8, 0.3)], 1),
        # Where all refuse too little, the one that refuses most.
        ([card(0.6, 0.1), card(0.7, 0.5)], 1),
        # So few prompts do not tell 61 points from 62: of both the one that refuses fewer twins.
        ([card(0.92, 0.30), card(0.84, 0.23)], 1),
        # A thousand times as many do.
        ([card(0.92, 0.30, n=100_000), card(0.84, 0.23, n=100_000)], 0),
        # Of equals the first.
        ([card(0.9, 0.1), card(0.9, 0.1)], 0),
        ([card(None, None), card(0.9, 0.1)], 1),
        ([card(None, None), card(0.5, None)], None),
    ],
)
def test_of_those_that_are_not_told_apart_the_one_that_refuses_the_fewest_twins_is_chosen(
    cards: list[Scorecard], best: int | None
) -> None:
    assert best_of(cards, at_least=0.8) == best


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

"""Soft targets: a teacher's own where it has them, else those of the model that is told its reasons."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.errors import InputError
from limbeck.models.context import PrivilegedContext
from limbeck.models.local import Local
from limbeck.models.reasoning import USUAL
from limbeck.models.recorded import Recorded
from limbeck.records import Lesson, Prompt, asked
from limbeck.targets.cache import Targets
from limbeck.teach import score as score_module
from limbeck.teach.keep import Top
from limbeck.teach.score import score, unlabelled_line
from limbeck.teach.settings import TeachSettings
from limbeck.workspace import Silent, StageStore


def lesson(question: str, teacher: str, reply: str | None = "Fine.") -> Lesson:
    return Lesson(prompt=Prompt(messages=asked(question)), reply=reply, teacher=teacher)


LESSONS = [
    lesson("Of the expert?", "expert"),
    lesson("Of the generalist?", "generalist", "A longer reply."),
    lesson("Of nobody?", "generalist", None),
]


def settings(tiny_model: Path, **more: Any) -> TeachSettings:
    teachers = (Recorded(name="expert"), Local(name="generalist", model=str(tiny_model)))
    return TeachSettings.model_validate({"teachers": teachers, "keep": Top(ids=4), **more})


def base(tiny_model: Path) -> Local:
    return Local(name="base", model=str(tiny_model))


def told(tiny_model: Path) -> PrivilegedContext:
    return PrivilegedContext(model=str(tiny_model), policy="Be kind.")


def test_every_lesson_with_a_reply_has_a_target_of_its_length(store: StageStore, tiny_model: Path) -> None:
    made = score(settings(tiny_model, soft_labels=told(tiny_model)), base(tiny_model), LESSONS, None, store=store)
    targets = Targets(made.folders)
    # A byte a token, and the end of the turn.
    assert {name: len(one.tail_N) for name, one in targets.items()} == {LESSONS[0].id: 6, LESSONS[1].id: 16}
    assert made.lessons == 2


def test_a_later_round_scores_the_new_lessons_alone(store: StageStore, tiny_model: Path) -> None:
    asked_for, student = settings(tiny_model), base(tiny_model)
    first = score(asked_for, student, LESSONS, None, store=replace(store, root=store.root / "first"))
    new = lesson("New?", "generalist")
    second = score(asked_for, student, [*LESSONS, new], first, store=replace(store, root=store.root / "second"))
    assert set(Targets(second.folders)) == {LESSONS[1].id, new.id}
    assert set(Targets(second.folders[-1:])) == {new.id}
    assert second.lessons == 2


def test_without_soft_labels_a_teacher_of_text_alone_has_no_target(store: StageStore, tiny_model: Path) -> None:
    made = score(settings(tiny_model), base(tiny_model), LESSONS, None, store=store)
    assert (set(Targets(made.folders)), made.lessons) == ({LESSONS[1].id}, 1)


def test_a_reply_for_which_the_context_of_who_scores_it_has_no_room_has_none_and_is_told(
    store: StageStore, tiny_model: Path
) -> None:
    # The policy takes all but some of the 1,024 tokens; a byte is a token.
    full = told(tiny_model).model_copy(update={"policy": "x" * 850})
    long = lesson("Of the expert?", "expert", "y" * 200)
    given = [*LESSONS, long]
    made = score(settings(tiny_model, soft_labels=full), base(tiny_model), given, None, store=store)
    assert set(Targets(made.folders)) == {LESSONS[0].id, LESSONS[1].id}
    assert (unlabelled_line(made) or "").startswith("soft labels: 1 of 3 replies have none, and losses that need one")


def test_where_no_reply_can_be_scored_the_run_stops_with_what_to_do(store: StageStore, tiny_model: Path) -> None:
    full = told(tiny_model).model_copy(update={"policy": "x" * 2000})
    asked_for = settings(tiny_model, soft_labels=full)
    with pytest.raises(InputError, match=r"none of 1 replies has one: .* give who scores them a longer context"):
        score(asked_for, base(tiny_model), [lesson("Of the expert?", "expert")], None, store=store)
    # The same command asks anew, for a server's room is not in the recipe.
    assert not list(store.folder("targets").iterdir())


def test_a_model_that_is_told_the_reasons_says_something_else_than_the_bare_one(
    tiny_model: Path, store: StageStore
) -> None:
    one = lesson("How?", "expert", "Kindly.")
    informed = score(
        settings(tiny_model, soft_labels=told(tiny_model)),
        base(tiny_model),
        [one],
        None,
        store=replace(store, root=store.root / "a"),
    )
    bare = score(
        settings(tiny_model, soft_labels=Local(model=str(tiny_model))),
        base(tiny_model),
        [one],
        None,
        store=replace(store, root=store.root / "b"),
    )
    p, q = Targets(informed.folders)[one.id], Targets(bare.folders)[one.id]
    assert p.tail_N.shape == q.tail_N.shape
    assert float((p.tail_N - q.tail_N).abs().max()) > 0.01


def test_a_killed_scoring_goes_on_with_the_parts_that_are_missing(
    store: StageStore, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_module, "PART_LESSONS", 2)
    many = [lesson(f"Question {number}?", "generalist") for number in range(5)]

    class Counting(Silent):
        def __init__(self, breath: int) -> None:
            self.breath = breath
            self.scored = 0

        def track(self, label: str, items: Iterable[Any], *, total: int) -> Iterator[Any]:
            for item in items:
                if self.scored == self.breath:
                    raise KeyboardInterrupt
                self.scored += 1
                yield item

    with pytest.raises(KeyboardInterrupt):
        score(settings(tiny_model), base(tiny_model), many, None, store=replace(store, shown=Counting(breath=3)))
    again = Counting(breath=99)
    made = score(settings(tiny_model), base(tiny_model), many, None, store=replace(store, shown=again))
    # Died while the second part of two was under way: it and the third, of one lesson, are scored again.
    assert again.scored == 3
    assert len(Targets(made.folders)) == 5
    assert all(torch.isfinite(one.logprobs_NK).all() for one in Targets(made.folders).values())


def test_a_teacher_with_another_vocabulary_than_the_student_is_one_message(
    store: StageStore, tiny_model: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    written = (other / "tokenizer.json").read_text()
    assert written.count('"A":') == written.count('"B":') == 1
    turned = written.replace('"A":', '"?:').replace('"B":', '"A":').replace('"?:', '"B":')
    (other / "tokenizer.json").write_text(turned)
    with pytest.raises(InputError, match="teacher 'generalist' has another vocabulary than the student"):
        score(settings(tiny_model), Local(name="base", model=str(other)), LESSONS, None, store=store)


def test_where_the_student_reasons_its_reasoning_is_scored_too(store: StageStore, tiny_model: Path) -> None:
    lessons = [lesson("Of the generalist?", "generalist").model_copy(update={"reasoning": "Hm."})]
    without, within = (
        Targets(
            score(
                settings(tiny_model),
                base(tiny_model),
                lessons,
                None,
                reasons,
                store=replace(store, root=store.root / name),
            ).folders
        )[lessons[0].id]
        for name, reasons in (("a", None), ("b", USUAL))
    )
    # A byte a token, and the end of the turn.
    assert (len(without.tail_N), len(within.tail_N)) == (len("Fine.") + 1, len(USUAL.block("Hm.") + "Fine.") + 1)

"""Soft targets of a teacher with another tokenizer, in the student's tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limbeck.errors import InputError
from limbeck.models.chat import reply_ids
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.models.references import DEFAULT_CHAT_TEMPLATE
from limbeck.protocols import Spans
from limbeck.records import Lesson, Prompt, asked
from limbeck.targets.cache import SpanTargets
from limbeck.teach.keep import Top
from limbeck.teach.mixture import continuation
from limbeck.teach.settings import TeachSettings
from limbeck.teach.spans import Translator, score_spans
from limbeck.workspace import StageStore


def lesson(question: str, reply: str | None = "Yes, this is.", teacher: str = "stranger") -> Lesson:
    return Lesson(prompt=Prompt(messages=asked(question)), reply=reply, teacher=teacher)


LESSONS = [
    lesson("Is it?"),
    lesson("Of the expert?", "This.", "expert"),
    lesson("Odd?", "Odd <|end|>."),
    lesson("?", None),
]


def settings(merging_model: Path) -> TeachSettings:
    stranger = Local(name="stranger", model=str(merging_model))
    return TeachSettings(teachers=(Recorded(name="expert"), stranger), soft_labels=stranger, keep=Top(ids=4))


def test_every_reply_that_both_spell_alike_has_a_target_of_the_students_length(
    store: StageStore, tiny_model: Path, merging_model: Path
) -> None:
    student = Local(name="base", model=str(tiny_model))
    first = score_spans(settings(merging_model), student, LESSONS, None, store=replace(store, root=store.root / "a"))
    found = SpanTargets(first.folders)
    # A byte a token, and the end of the turn; "Yes", ",", " this", " ", "is", "." and the end are the teacher's.
    assert {name: len(one.tail_N) for name, one in found.items()} == {LESSONS[0].id: 14, LESSONS[1].id: 6}
    assert int(found[LESSONS[0].id].known_N.sum()) == 7
    assert (first.lessons, first.unlabelled) == (2, 1)
    new = [*LESSONS[:2], lesson("New?")]
    second = score_spans(settings(merging_model), student, new, first, store=replace(store, root=store.root / "b"))
    assert (second.lessons, second.unlabelled, len(SpanTargets(second.folders[-1:]))) == (3, 0, 1)
    for file in first.folders[0].iterdir():
        file.unlink()
    with pytest.raises(InputError, match="of 2 soft targets 0 are there"):
        score_spans(settings(merging_model), student, new, first, store=replace(store, root=store.root / "c"))


def target(teacher: Path, student: Path, one: Lesson, *, top: int, told: bool = True) -> Spans:
    from limbeck.models.references import load_tokenizer, resolve

    with Local(name="teacher", model=str(teacher)).open() as model:
        if not told:
            model.tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        (label,) = Translator.between(model, load_tokenizer(resolve(str(student))), keep=Top(ids=top)).labels([one])
    assert isinstance(label.target, Spans)
    return label.target


def test_a_span_has_the_probability_that_the_teacher_gives_its_tokens(tiny_model: Path, merging_model: Path) -> None:
    # The teacher's tokens are bytes, the student's are words: the span " this" is five of the teacher's.
    one = lesson("Is it?")
    found = target(tiny_model, merging_model, one, top=3)
    with Local(name="teacher", model=str(tiny_model)).open() as model:
        ((_, hidden_MH),) = model.places([continuation(one)])
        logprobs_MV = model.logprobs(hidden_MH)
        ids = reply_ids(model.tokenizer, "Yes, this is.", ends=True)
        said_M = logprobs_MV.gather(1, torch.tensor(ids)[:, None])[:, 0]
    # Yes , _this _ is . end
    assert found.begins_N.all() and found.known_N.all() and len(found.tail_N) == 7
    torch.testing.assert_close(found.whole_N[2], said_M[4:9].sum(), rtol=1e-4, atol=1e-4)
    assert found.whole_N[1] == -torch.inf
    # All bytes are tokens of the student's too.
    assert not (found.odd_NU > -torch.inf).any()
    mass_N = torch.cat([found.logprobs_NW, found.whole_N[:, None], found.tail_N[:, None]], dim=1).exp().sum(1)
    torch.testing.assert_close(mass_N, torch.ones(7))


@pytest.mark.parametrize(("told", "known"), [(True, 7), (False, 6)])
def test_a_base_model_is_not_asked_where_a_turn_ends(
    tiny_model: Path, merging_model: Path, told: bool, known: int
) -> None:
    found = target(merging_model, tiny_model, lesson("Is it?"), top=3, told=told)
    assert int(found.known_N.sum()) == known
    assert bool(found.known_N[-1]) is told and bool(found.begins_N[-1])

"""Ready lessons: files mixed by weight, and which turns of a chat are learnt."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from limbeck.errors import InputError
from limbeck.files import Row, lesson_of
from limbeck.records import Lesson, Prompt, asked
from limbeck.training.lessons import LessonFile, LessonFiles, read_lessons
from limbeck.workspace import StageStore

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "Yes."},
]


def lessons(
    store: StageStore, *rows: dict[str, Any], supervise: Literal["last", "all"] = "last", weight: float = 1.0
) -> list[Lesson]:
    file = store.folder("given") / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = LessonFiles(files=(LessonFile(path=file, weight=weight),), supervise=supervise)
    return list(read_lessons(settings, [Prompt(messages=asked("Held out?"), split="exam")], store=store))


def test_the_last_turn_alone_or_every_turn_of_the_assistant_is_learnt(store: StageStore) -> None:
    (last,) = lessons(store, {"messages": CHAT})
    every = lessons(store, {"messages": CHAT}, supervise="all")
    assert [lesson.reply for lesson in every] == ["So.", "Yes."]
    assert [len(lesson.prompt.messages) for lesson in every] == [2, 4]
    assert every[1].prompt.messages == last.prompt.messages
    assert every[0].prompt.family == every[1].prompt.family != ""


def test_a_reply_in_a_column_of_its_own_is_the_only_one_that_is_learnt(store: StageStore) -> None:
    (lesson,) = lessons(store, {"messages": CHAT[:4], "completion": "No."}, supervise="all")
    assert (lesson.reply, len(lesson.prompt.messages)) == ("No.", 4)


def test_the_weights_of_a_file_count_so_many_times(store: StageStore) -> None:
    rows = ({"prompt": "A?", "completion": "a"}, {"prompt": "B?", "completion": "b", "weight": 0.5})
    assert [lesson.weight for lesson in lessons(store, *rows, weight=0.5)] == [0.5, 0.25]


@pytest.mark.parametrize("supervise", ["last", "all"])
def test_a_chat_without_a_reply_is_named(store: StageStore, supervise: Literal["last", "all"]) -> None:
    with pytest.raises(InputError, match=r"own.jsonl:1: there is no reply; give completion, chosen, or messages"):
        lessons(store, {"messages": CHAT[:2]}, supervise=supervise)


def test_a_prompt_that_is_held_out_is_never_taught(store: StageStore) -> None:
    with pytest.raises(InputError, match=r"own.jsonl:2: this prompt is in the exam split and may not be taught"):
        lessons(store, {"prompt": "A?", "completion": "a"}, {"prompt": " held  OUT?", "completion": "b"})


def test_the_reasoning_of_a_row_is_that_before_its_last_reply(store: StageStore) -> None:
    rows = ({"prompt": "A?", "completion": "a", "reasoning": "Hm."}, {"messages": CHAT, "reasoning": "Well."})
    assert [lesson.reasoning for lesson in lessons(store, *rows, supervise="all")] == ["Hm.", None, "Well."]
    assert [lesson.reasoning for lesson in lessons(store, {"prompt": "A?", "completion": "a"})] == [None]


def test_reasoning_that_is_no_text_is_named(store: StageStore) -> None:
    with pytest.raises(InputError, match=r"own.jsonl:1: 'reasoning'"):
        lessons(store, {"prompt": "A?", "completion": "a", "reasoning": 3})


@pytest.mark.parametrize("column", ["completion", "reply", "chosen"])
def test_a_reply_that_is_no_text_is_named_by_its_own_column(column: str) -> None:
    with pytest.raises(InputError, match=rf"mine.jsonl:3: '{column}' is 4; use text"):
        lesson_of(Row("mine.jsonl:3", {"prompt": "How?", column: 4}))

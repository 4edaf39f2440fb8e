"""Each request is asked once, kept at once, and never asked again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from limbeck.models.answer import AnswerSettings, answer, ask
from limbeck.models.recorded import Recorded
from limbeck.models.scripted import Line, Scripted
from limbeck.records import Prompt, Reply, Request, asked, request_of
from limbeck.workspace import Kept, StageStore


class Counting:
    """Echoes the question, backwards, and remembers what it was asked; dies after `breath` replies."""

    name = "counting"
    identity = "counting:1"

    def __init__(self, breath: int = 99) -> None:
        self.breath = breath
        self.asked: list[str] = []

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        for request in requests[::-1]:
            if len(self.asked) == self.breath:
                raise KeyboardInterrupt
            self.asked.append(request.messages[-1].content)
            yield Reply(request_id=request.id, text=request.messages[-1].content[::-1], finish="stop")


def requests(*texts: str) -> list[Request]:
    return [Request(messages=asked(text), max_tokens=9) for text in texts]


def test_replies_come_in_the_order_of_the_requests_whatever_the_order_of_the_model(store: StageStore) -> None:
    said = [reply.text for reply in ask(Counting(), requests("abc", "def", "ghi"), store, label="")]
    assert said == ["cba", "fed", "ihg"]


def test_a_request_made_twice_is_asked_once_and_answered_twice(store: StageStore) -> None:
    model = Counting()
    assert [reply.text for reply in ask(model, requests("abc", "abc"), store, label="")] == ["cba", "cba"]
    assert model.asked == ["abc"]


def test_after_a_kill_only_what_was_not_yet_answered_is_asked(store: StageStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(ask(Counting(breath=2), requests("abc", "def", "ghi"), store, label=""))
    again = Counting()
    assert [reply.text for reply in ask(again, requests("abc", "def", "ghi"), store, label="")] == ["cba", "fed", "ihg"]
    assert again.asked == ["abc"]


def test_another_model_is_asked_anew(store: StageStore) -> None:
    list(ask(Counting(), requests("abc"), store, label=""))
    other = Counting()
    other.identity = "counting:2"
    list(ask(other, requests("abc"), store, label=""))
    assert other.asked == ["abc"]


def test_a_reply_whose_line_was_deleted_is_asked_for_again_though_another_stage_had_it_first(store: StageStore) -> None:
    list(ask(Counting(), requests("abc"), store, label=""))
    later = replace(store, key="later")
    list(ask(Counting(), requests("abc", "def"), later, label=""))
    file = later.kept.file
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "cba" not in line))
    again = Counting()
    said = ask(again, requests("abc", "def"), replace(later, kept=Kept(file)), label="")
    assert [reply.text for reply in said] == ["cba", "fed"]
    assert again.asked == ["abc"]


def test_a_model_that_leaves_a_request_unanswered_is_a_bug_that_is_named(store: StageStore) -> None:
    class Silent(Counting):
        def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
            return iter(())

    with pytest.raises(AssertionError, match="unanswered"):
        list(ask(Silent(), requests("abc"), store, label=""))


def test_multiple_choice_items_are_not_asked_for_a_reply_and_a_failed_one_has_no_text(store: StageStore) -> None:
    prompts = [
        Prompt(messages=asked("Say hello.")),
        Prompt(messages=asked("Which?"), choices=("a", "b"), answer=0),
        Prompt(messages=asked("Something else.")),
    ]
    subject = Scripted(name="polite", script=(Line(when="hello", say=("Hello!",)),))
    trials = list(answer(AnswerSettings(max_tokens=5), subject, prompts, store=store))
    assert [(one.reply, one.finish) for one in trials] == [("Hello!", "stop"), (None, "failed")]
    assert trials[1].why == "no line of the script matches"


def test_a_recorded_teacher_says_the_reference_and_fails_off_the_recording() -> None:
    known = request_of(Prompt(messages=asked("Known?"), reference="Yes."), max_tokens=9)
    unknown = request_of(Prompt(messages=asked("Unknown?")), max_tokens=9)
    with Recorded(name="expert").open() as expert:
        first, second = expert.replies([known, unknown])
    assert (first.text, first.finish) == ("Yes.", "stop")
    assert (second.text, second.finish, second.why) == ("", "failed", "there is no recorded reply")


def test_another_reference_to_the_same_question_is_another_answer(store: StageStore) -> None:
    with Recorded().open() as expert:
        for said in ("Yes.", "No."):
            wanted = request_of(Prompt(messages=asked("Known?"), reference=said), max_tokens=9)
            assert [reply.text for reply in ask(expert, [wanted], store, label="")] == [said]


def test_a_scripted_model_takes_its_replies_in_turn_by_seed_and_cuts_them_by_words() -> None:
    spec = Scripted(script=(Line(say=("one two three", "four")),))
    with spec.open() as model:
        drawn = [Request(messages=asked("?"), max_tokens=2, seed=seed) for seed in (0, 1)]
        said = [(one.text, one.finish, one.reply_tokens) for one in model.replies(drawn)]
    assert said == [("one two", "length", 2), ("four", "stop", 1)]


class InPairs(Counting):
    """Computes two at a time, as they come."""

    def reply_batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        return [list(requests[at : at + 2]) for at in range(0, len(requests), 2)]


def test_a_batch_is_kept_whole_and_one_that_a_kill_tore_is_computed_as_it_was(store: StageStore) -> None:
    six = requests("a", "bc", "def", "ghij", "klmno", "p")
    with pytest.raises(KeyboardInterrupt):
        list(ask(InPairs(breath=3), six, store, label=""))
    again = InPairs()
    assert [reply.text for reply in ask(again, six, store, label="")] == ["a", "cb", "fed", "jihg", "onmlk", "p"]
    # "ghij" had been said, and its pair was not done: it is said once more beside "def", and nothing else is.
    assert again.asked == ["ghij", "def", "p", "klmno"]
    assert list(ask(never := InPairs(breath=0), six, store, label="")) and never.asked == []

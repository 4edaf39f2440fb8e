"""Reasoning is told from the answer, whoever gives it; what has no answer is an outcome and not text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError
from torch import Tensor

from limbeck.models.answer import trial_of
from limbeck.models.chat import end_of_turn
from limbeck.models.context import ContextModel, PrivilegedContext
from limbeck.models.local import Local, LocalModel
from limbeck.models.reasoning import USUAL, Reasoning, begun_by
from limbeck.models.recorded import Recorded
from limbeck.models.scripted import Line, Scripted
from limbeck.records import Message, Prompt, Reply, Request, Trial, asked, request_of
from limbeck.taxonomy import Finish


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("Plainly.", None, "Plainly."),
        ("<think>Hm.</think>So.", "Hm.", "So."),
        ("\n<think>\nHm.\n</think>\n\nSo.\n", "Hm.", "So."),
        ("<think>Hm.", "Hm.", None),
        ("<think>Hm.</thi", "Hm.", None),
        ("<think>", None, None),
        ("<think>Hm.</think>", "Hm.", ""),
        ("<think>\n\n</think>\n\nSo.", None, "So."),
        # Of two blocks before the answer both are reasoning; one within the answer belongs to that.
        ("<think>Hm.</think> <think>Well.</think>So.", "Hm.\n\nWell.", "So."),
        ("<think>Hm.</think>So. <think>Well.</think> Yes.", "Hm.", "So. <think>Well.</think> Yes."),
        ("Write <think> and </think> around it.", None, "Write <think> and </think> around it."),
        ("The tag </think> ends it.", None, "The tag </think> ends it."),
        ("<think>It is <think> I want.</think>So.", "It is <think> I want.", "So."),
    ],
)
def test_reasoning_is_what_stands_between_tags_before_the_answer(
    text: str, reasoning: str | None, answer: str | None
) -> None:
    assert USUAL.split(text) == (reasoning, answer)


def test_what_a_student_writes_is_read_as_it_was_meant() -> None:
    for own in (USUAL, Reasoning(opening="[THINK]", closing="[/THINK]")):
        assert own.split(own.block("Hm.") + "So.") == ("Hm.", "So.")
        assert own.split(own.block("") + "So.") == (None, "So.")


@pytest.mark.parametrize(
    ("text", "finish", "becomes", "why"),
    [
        ("<think>Hm.", "length", "length", "cut off within its reasoning"),
        ("<think>Hm.</think>", "length", "length", "cut off before its answer"),
        ("<think>Hm.", "stop", "failed", "it ended within its reasoning"),
    ],
)
def test_a_reply_without_an_answer_is_an_outcome_and_never_text(
    text: str, finish: Finish, becomes: Finish, why: str
) -> None:
    reply = USUAL.told_apart(Reply(request_id="r", text=text, finish=finish))
    assert (reply.text, reply.reasoning, reply.finish, reply.why) == ("", "Hm.", becomes, why)
    trial = trial_of(Trial(prompt=Prompt(messages=asked("Why?")), subject="s", asked="reply"), reply)
    assert (reply.answer, trial.reply, trial.finish, trial.why) == (None, None, becomes, why)
    assert trial.reasoning == "Hm."


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_an_answer_is_told_from_its_reasoning_also_where_it_is_cut(finish: Finish) -> None:
    reply = USUAL.told_apart(Reply(request_id="r", text="<think>Hm.</think>So", finish=finish))
    assert (reply.text, reply.answer, reply.reasoning, reply.finish) == ("So", "So", "Hm.", finish)


def test_a_reply_without_reasoning_stays_as_it_is() -> None:
    reply = Reply(request_id="r", text=" So.\n", finish="length")
    assert USUAL.told_apart(reply) == reply and reply.answer == " So.\n"


def test_tags_that_cannot_be_found_are_refused() -> None:
    with pytest.raises(ValidationError, match="both '<t>'; use two tags that differ"):
        Reasoning(opening="<t>", closing="<t>")
    with pytest.raises(ValidationError, match="begins or ends with space"):
        Reasoning(opening="<think>\n")


class Speaking(LocalModel):
    """Weights that say what they are told to: the line of the first key that the prompt's text contains."""

    lines: dict[str, str]

    def _choose(self, logits_BV: Tensor, rows: Sequence[Any]) -> list[int]:
        return [self._next(row) for row in rows]

    def _next(self, row: Any) -> int:
        said = self.tokenizer.decode(row.prompt)
        line = next(line for key, line in self.lines.items() if key in said)
        ids = self.tokenizer.encode(line, add_special_tokens=False)
        return int(ids[len(row.reply)]) if len(row.reply) < len(ids) else end_of_turn(self.tokenizer)


@pytest.fixture
def speaking(tiny_model: Path) -> Iterator[Any]:
    with Local(name="tiny", model=str(tiny_model)).open() as model:

        def told(reasoning: Reasoning = USUAL, **lines: str) -> Speaking:
            made = Speaking(
                name="tiny",
                identity="tiny",
                weights=model.weights,
                tokenizer=model.tokenizer,
                batch_tokens=9999,
                reasoning=reasoning,
            )
            made.lines = {key.replace("_", " "): line for key, line in lines.items()}
            return made

        yield told


def replied(
    model: Any, *messages: tuple[Message, ...], max_tokens: int = 10, closed: Literal[True] | None = None
) -> list[tuple[str, str | None, str]]:
    wanted = [Request(messages=one, max_tokens=max_tokens, closed=closed) for one in messages]
    found = {reply.request_id: reply for reply in model.replies(wanted)}
    return [(found[one.id].text, found[one.id].reasoning, found[one.id].finish) for one in wanted]


def test_a_reply_that_reasons_may_be_longer_by_its_reasoning_and_no_other(speaking: Any) -> None:
    # Each letter is a token: 21 for the reply that reasons, 20 for the plain one.
    lines = {"Why": "<think>Hm.</think>So.", "How": "Take twenty letters."}
    short, long = (speaking(Reasoning(max_tokens=more), **lines) for more in (0, 11))
    both = asked("Why?"), asked("How?")
    assert replied(short, *both) == [("", "Hm.", "length"), ("Take twent", None, "length")]
    assert replied(long, *both) == [("So.", "Hm.", "length"), ("Take twent", None, "length")]


def test_a_template_that_opens_the_reasoning_itself_is_seen(speaking: Any) -> None:
    model = speaking(Reasoning(max_tokens=5), Why="Hm.</think>So.")
    opened = (*asked("Why?"), begun_by("<think>\n"))
    assert replied(model, opened) == [("So.", "Hm.", "stop")]
    # Where the reasoning is already closed, what follows is the answer.
    closed = (*asked("Why?"), begun_by(USUAL.block("Hm.")))
    assert replied(speaking(Why="So."), closed) == [("So.", None, "stop")]


def test_tags_that_are_special_tokens_are_not_lost(speaking: Any) -> None:
    # Of the tiny model's tokenizer, which leaves special tokens out of a text.
    own = Reasoning(opening="<|turn|>", closing="</turn>")
    assert replied(speaking(own, Why="<|turn|>Hm.</turn>So."), asked("Why?"), max_tokens=30) == [("So.", "Hm.", "stop")]


def test_a_model_that_is_made_to_think_answers_after_its_own_thoughts(speaking: Any) -> None:
    lines = {"</think>": "So.", "Why": "Hm", "How": "Well</think>Go."}
    model = ContextModel(speaking(Reasoning(max_tokens=20), **lines), "Think first.", think=True)
    # One ends within its reasoning, the other closes it: both answer in the end.
    assert replied(model, asked("Why?"), asked("How?")) == [("So.", "Hm", "stop"), ("So.", "Well", "stop")]


def test_a_reply_that_is_begun_is_gone_on_with_and_not_thought_about_anew(speaking: Any) -> None:
    lines = {"Never": "Go.", "</think>": "So.", "Why": "Hm"}
    model = ContextModel(speaking(Reasoning(max_tokens=20), **lines), "Think first.", think=True)
    begun = (*asked("Why?"), begun_by("<think>\nNever.\n</think>\n\n"))
    assert replied(model, begun, asked("Why?"))[0][0] == "Go."
    assert replied(model, asked("Why?")) == [("So.", "Hm", "stop")]


def test_a_guard_judges_the_reply_at_the_end_of_its_chat_and_thinks_about_it(speaking: Any) -> None:
    chat = (*asked("Why?"), begun_by("Never."))
    # A turn that is over has its end.
    lines = {"</think>": "unsafe", "Never.<|end|>": "safe", "Never.": " Ever."}
    assert replied(speaking(**lines), chat) == [("Ever.", None, "stop")]
    assert replied(speaking(**lines), chat, closed=True) == [("safe", None, "stop")]
    model = ContextModel(speaking(Reasoning(max_tokens=20), **lines), "Think first.", think=True)
    assert replied(model, chat, closed=True) == [("unsafe", "safe", "stop")]


def test_thoughts_that_do_not_end_are_closed_where_their_budget_does(speaking: Any) -> None:
    model = ContextModel(speaking(Reasoning(max_tokens=3), **{"</think>": "So.", "Why": "Hmmmmm"}), "", think=True)
    assert replied(model, asked("Why?")) == [("So.", "Hmmm", "stop")]


def test_who_is_to_think_needs_room_for_it() -> None:
    with pytest.raises(ValidationError, match=r"set reasoning.max_tokens to 1 or more"):
        PrivilegedContext(model="some/model", think=True)


def test_a_recorded_teacher_has_reasoning_in_a_column_or_between_tags(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    file.write_text(
        '{"prompt": "Why?", "reply": "Because.", "reasoning": "Hm."}\n'
        '{"prompt": "How?", "reply": "<think>Well.</think>So."}\n{"prompt": "Who?", "reply": "You."}\n'
    )
    wanted = [request_of(Prompt(messages=asked(text)), max_tokens=9) for text in ("Why?", "How?", "Who?")]
    with Recorded(name="expert", replies=file).open() as expert:
        found = [(one.text, one.reasoning, one.finish) for one in expert.replies(wanted)]
    assert found == [("Because.", "Hm.", "stop"), ("So.", "Well.", "stop"), ("You.", None, "stop")]


def test_a_scripted_model_reasons_between_the_tags_of_its_settings() -> None:
    tags = {"opening": "[T]", "closing": "[/T]", "max_tokens": 2}
    spec = Scripted(name="s", script=(Line(say=("[T] one two [/T] three four",)),), reasoning=Reasoning(**tags))
    with spec.open() as model:
        cut, whole = model.replies([Request(messages=asked("?"), max_tokens=most) for most in (1, 4)])
    assert (cut.text, cut.reasoning, cut.finish) == ("", "one two", "length")
    assert (whole.text, whole.reasoning, whole.finish) == ("three four", "one two", "stop")


def test_other_settings_of_the_reasoning_are_another_model(tiny_model: Path) -> None:
    identities = set()
    for reasoning in (USUAL, Reasoning(max_tokens=8), Reasoning(opening="[T]", closing="[/T]")):
        with Scripted(script=(Line(say=("x",)),), reasoning=reasoning).open() as model:
            identities.add(model.identity)
    assert len(identities) == 3

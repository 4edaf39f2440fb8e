"""Recorded replies are found by the prompt they answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.errors import InputError
from limbeck.models.recorded import Recorded, recorded_in
from limbeck.records import Prompt, Request, asked, request_of


def replied(file: Path, *wanted: Request) -> list[tuple[str, str]]:
    with Recorded(name="expert", replies=file).open() as expert:
        return [(reply.text, reply.finish) for reply in expert.replies(wanted)]


def test_a_reply_is_found_by_its_prompt_and_a_variant_gets_its_roots(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    file.write_text('{"prompt": "Why?", "reply": "Because."}\n{"prompt": "How?", "completion": "So."}\n')
    why, how = Prompt(messages=asked("Why?")), Prompt(messages=asked("How?"))
    variant = Prompt(messages=asked("WHY?"), root=why.id)
    other = Prompt(messages=asked("Who?"))
    wanted = [request_of(one, max_tokens=9) for one in (how, why, variant, other)]
    assert replied(file, *wanted) == [("So.", "stop"), ("Because.", "stop"), ("Because.", "stop"), ("", "failed")]


def test_a_row_without_a_reply_is_named(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    file.write_text('{"prompt": "Why?", "reply": "Because."}\n{"prompt": "How?"}\n')
    with pytest.raises(InputError, match=r"said.jsonl:2: there is no reply; give one of the columns reply"):
        replied(file)


def test_an_empty_recording_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "said.jsonl").touch()
    with pytest.raises(InputError, match="there are no rows"):
        replied(tmp_path / "said.jsonl")


def test_another_reply_to_the_same_prompt_is_named_with_both_lines(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    row = '{"prompt": "Why?", "reply": "Because."}\n'
    file.write_text(row + '{"prompt": "Why?", "reply": "Ask again."}\n' + row)
    with pytest.raises(
        InputError, match=r"said.jsonl:2: 'Why\?' has another reply than at \S*said.jsonl:1; keep one of them"
    ) as error:
        replied(file)
    # The third row says what the first does.
    assert "said.jsonl:3" not in str(error.value)


@pytest.mark.parametrize("empty", ["", " \\n"])
def test_an_empty_reply_is_failed_and_no_other_column_takes_its_place(tmp_path: Path, empty: str) -> None:
    file = tmp_path / "said.jsonl"
    file.write_text(f'{{"prompt": "Why?", "reply": "{empty}", "completion": "Because."}}\n')
    (request,) = [request_of(Prompt(messages=asked("Why?")), max_tokens=9)]
    assert replied(file, request) == [("", "failed")]


def test_an_empty_reply_is_no_worked_example(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    file.write_text('{"prompt": "Why?", "reply": "Because."}\n{"prompt": "How?", "reply": ""}\n')
    with pytest.raises(InputError, match=r"said.jsonl:2: the reply is empty; write one, or leave the row out"):
        list(recorded_in(file))

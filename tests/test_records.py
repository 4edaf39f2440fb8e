"""The nouns: an id is a hash of what they say, and a line reads back as what was written."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from limbeck.records import Candidate, Lesson, Message, Prompt, Record, Trial, Verdict, asked, request_of

PROMPT = Prompt(messages=asked("How?"), harm="bias", tier="safe", family="f", reference="So.")


def test_the_id_is_the_same_for_the_same_thing_and_another_for_another() -> None:
    assert PROMPT.id == Prompt(messages=asked("How?"), harm="bias").id
    assert PROMPT.id != Prompt(messages=asked("Why?"), harm="bias").id
    assert len(PROMPT.id) == 16


def test_the_split_and_the_family_are_no_part_of_what_a_prompt_is() -> None:
    assert PROMPT.id == PROMPT.model_copy(update={"split": "exam", "family": "other"}).id


def test_choices_are_part_of_what_a_prompt_is() -> None:
    assert PROMPT.id != Prompt(messages=asked("How?"), choices=("a", "b"), answer=0).id


def test_two_nouns_that_say_the_same_have_different_ids() -> None:
    class Other(Record):
        text: str

    class Another(Record):
        text: str

    assert Other(text="a").id != Another(text="a").id


def test_a_changed_copy_has_an_id_of_its_own() -> None:
    original = Prompt(messages=asked("How?"))
    before = original.id
    changed = original.model_copy(update={"messages": asked("Why?")})
    assert changed.id == Prompt(messages=asked("Why?")).id != before


@pytest.mark.parametrize(
    "record",
    [
        PROMPT,
        Candidate(prompt=PROMPT, teacher="t", role="taught", reply="ünï\u2028code\n", finish="stop"),
        Verdict(of="a", judge="j", version="1", refused="partial", p_refused=0.25, harm={"bias": 0.5}),
        Lesson(prompt=PROMPT, reply=None, rejected=("no",), risk=1.0),
        Trial(prompt=PROMPT, subject="s", asked="choices", scores=(-1.5, -2.25)),
    ],
)
def test_a_line_reads_back_as_the_row_that_was_written(record: Record) -> None:
    line = record.line()
    assert "\n" not in line and line.startswith(f'{{"id":"{record.id}",')
    again = type(record).read(line)
    assert again == record and again.id == record.id


@pytest.mark.parametrize("line", ['{"id": "a", "of": "b"', '{"of": "b", "judge": "j", "version": "1", "score": 0.5}'])
def test_a_line_that_is_torn_or_says_something_unknown_is_no_row(line: str) -> None:
    with pytest.raises(ValueError):
        Verdict.read(line)


def test_a_row_is_frozen() -> None:
    with pytest.raises(ValidationError):
        PROMPT.harm = "toxicity"  # type: ignore[misc]


def test_an_empty_prompt_is_refused() -> None:
    for messages in ((), (Message(role="user", content=" \n"),)):
        with pytest.raises(ValidationError, match="the prompt is empty"):
            Prompt(messages=messages)


def test_a_twin_is_a_harmless_prompt_of_a_harm() -> None:
    twins = [
        Prompt(messages=asked("a"), harm=harm, tier=tier).is_twin  # type: ignore[arg-type]
        for harm, tier in (("bias", "safe"), ("bias", "adversarial"), (None, "safe"))
    ]
    assert twins == [True, False, False]


def test_what_is_asked_for_makes_a_request_and_who_asks_does_not() -> None:
    request = request_of(PROMPT, max_tokens=9, temperature=1.0, seed=3)
    assert (request.prompt_id, request.reference) == (PROMPT.id, "So.")
    assert request.id == request.model_copy(update={"prompt_id": "another"}).id
    # Another reference is another answer of a recorded teacher.
    for change in ({"seed": 4}, {"max_tokens": 8}, {"temperature": 0.5}, {"reference": "No."}):
        assert request.model_copy(update=change).id != request.id


def test_a_verdict_without_a_score_says_nothing_of_refusal() -> None:
    unscored = Verdict(of="a", judge="j", version="1", unscored="the reply is empty")
    assert (unscored.refused, unscored.p_refused, unscored.harm) == (None, None, {})

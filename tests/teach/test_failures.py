"""Draws that came to nothing are told of when all are there."""

from __future__ import annotations

from typing import Any

from limbeck.records import Candidate, Prompt, asked
from limbeck.taxonomy import HOUSE
from limbeck.teach.failures import telling_failures


def draw(**given: Any) -> Candidate:
    return Candidate(
        **{
            "prompt": Prompt(messages=asked("How?")),
            "role": "taught",
            "teacher": "expert",
            "reply": "",
            "finish": "stop",
        }
        | given
    )


def told(drawn: list[Candidate]) -> list[str]:
    said: list[str] = []
    assert list(telling_failures(drawn, say=said.append)) == drawn
    return said


def test_the_line_says_how_many_of_how_many_and_why_the_first() -> None:
    failed, blocked = draw(finish="failed", why="Invalid JSON"), draw(finish="blocked")
    assert told([draw(reply="So."), failed, blocked]) == [
        "draws: 2 of 3 were blocked or failed (of the first: Invalid JSON)"
    ]
    assert told([blocked]) == ["draws: 1 of 1 were blocked or failed (of the first: blocked)"]


def test_without_a_failure_of_a_teacher_nothing_is_said() -> None:
    own, house = draw(finish="failed", role="rejected"), draw(finish="failed", teacher=HOUSE)
    assert told([draw(reply="So."), own, house]) == told([]) == []

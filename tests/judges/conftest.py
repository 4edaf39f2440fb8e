"""Tools for judges whose chat model says what a test gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from limbeck.protocols import ChatModel, ReadingEncoder
from limbeck.records import Reply, Request


class Answering:
    """Replies with what the given function makes of a request's chat; None is a failure."""

    name = "answering"
    identity = "answering:1"

    def __init__(self, answer: Callable[[Request], str | None]) -> None:
        self.answer = answer
        self.asked: list[Request] = []

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        # Last first: a judge must not count on the order.
        for request in reversed(requests):
            self.asked.append(request)
            said = self.answer(request)
            if said is None:
                yield Reply(request_id=request.id, text="", finish="failed", why="timed out after 60 s")
            else:
                yield Reply(request_id=request.id, text=said, finish="stop")


class AnsweringTools:
    """Tools whose chat model is the one that a test made."""

    def __init__(self, model: Answering) -> None:
        self.model = model

    def encoder(self) -> ReadingEncoder:
        raise AssertionError("this judge needs no encoder")

    @contextmanager
    def chat(self, settings: Mapping[str, Any]) -> Iterator[ChatModel]:
        yield self.model


@pytest.fixture
def answering() -> Callable[[Callable[[Request], str | None]], AnsweringTools]:
    """Tools whose chat model replies with what a function makes of each request."""
    return lambda answer: AnsweringTools(Answering(answer))

"""Tools for judges: an encoder made of hashes, and a chat model that says what a test gives it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limbeck.protocols import ChatModel, Encoder
from limbeck.records import Reply, Request


class HashEncoder:
    """Unit vectors that depend on the text alone; they mean nothing."""

    def encode(self, texts: Sequence[str], *, exact: bool = False) -> NDArray[np.float32]:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        vectors = np.stack([np.random.default_rng(seed).normal(size=384) for seed in seeds])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


class HashTools:
    """Tools whose encoder needs no weights and has as many dimensions as the real one."""

    def encoder(self) -> HashEncoder:
        return HashEncoder()

    def chat(self, settings: Mapping[str, Any]) -> AbstractContextManager[ChatModel]:
        raise AssertionError("this judge asks no model")


@pytest.fixture
def hashing() -> HashTools:
    """Tools whose encoder means nothing by its vectors."""
    return HashTools()


class Answering:
    """Replies with what the given function makes of a request's chat; None is a failure."""

    name = "answering"
    identity = "answering:1"
    asked_together = 1

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

    def encoder(self) -> Encoder:
        raise AssertionError("this judge needs no encoder")

    @contextmanager
    def chat(self, settings: Mapping[str, Any]) -> Iterator[ChatModel]:
        yield self.model


@pytest.fixture
def answering() -> Callable[[Callable[[Request], str | None]], AnsweringTools]:
    """Tools whose chat model replies with what a function makes of each request."""
    return lambda answer: AnsweringTools(Answering(answer))

"""What an attack is: a harmful prompt in, chats that ask for the same in a harder way out."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple

from pydantic import Field

from limbeck.records import Message, Prompt
from limbeck.spec import Kind


class Attempt(NamedTuple):
    """One try at a prompt: the chat to send.

    An assistant turn without words stands for what the model itself says there; one at the end, with words, is the
    beginning of its reply. A `sample` above 0 is drawn at temperature 1, another reply for each number. `technique` is
    which of the attack's named ways it is.
    """

    messages: tuple[Message, ...]
    sample: int = 0
    technique: str | None = None


class Attack(Kind):
    """Settings of an attack; it succeeds on a prompt where one of its attempts does."""

    @property
    def name(self) -> str:
        """What its figures are called."""
        return self.kind

    @abstractmethod
    def attempts(self, prompt: Prompt, *, seed: int) -> Iterator[Attempt]:
        """The tries, always the same for a prompt and seed."""


class Framed(Attack):
    """Puts what is asked into a frame of words: `tries` of the frames, drawn for each prompt by hash."""

    frames: ClassVar[tuple[str, ...]]
    tries: int = Field(default=2, ge=1)

    def attempts(self, prompt: Prompt, *, seed: int) -> Iterator[Attempt]:
        for frame in drawn(self.frames, prompt, seed=seed)[: self.tries]:
            yield Attempt(reworded(prompt, frame.format(prompt.text)))


def drawn(ways: Iterable[str], prompt: Prompt, *, seed: int) -> list[str]:
    """The ways in an order of the prompt's own, by hash."""
    return sorted(set(ways), key=lambda way: hashlib.sha256(f"{seed} {prompt.id} {way}".encode()).digest())


def reworded(prompt: Prompt, text: str) -> tuple[Message, ...]:
    """The prompt's chat with another last turn."""
    return (*prompt.messages[:-1], Message(role="user", content=text))

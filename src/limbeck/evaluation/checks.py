"""What a reply can be checked for without a judge; `CHECKS` lists it."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from limbeck.spec import Kind, Table

BULLET = re.compile(r"^\s*[-*•]\s+\S", re.MULTILINE)
NUMBERED = re.compile(r"^\s*\d+[.)]\s+\S", re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?]+[\"”'’)\]]*(?:\s|$)")


class Check(Kind):
    """Settings of one check."""

    @abstractmethod
    def __call__(self, reply: str) -> bool:
        """Whether the reply passes."""


class Counted(Check):
    """A check of how many of something there are, both ends included."""

    at_least: int = Field(default=0, ge=0)
    at_most: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_least == 0 and self.at_most is None:
            raise ValueError(f"the check '{self.kind}' has no bounds; give at_least or at_most")
        return self

    def __call__(self, reply: str) -> bool:
        count = self.count(reply)
        return self.at_least <= count and (self.at_most is None or count <= self.at_most)

    @abstractmethod
    def count(self, reply: str) -> int:
        """How many there are."""


class Words(Counted):
    """So many words."""

    kind: Literal["words"] = "words"

    def count(self, reply: str) -> int:
        return len(reply.split())


class Sentences(Counted):
    """So many sentences."""

    kind: Literal["sentences"] = "sentences"

    def count(self, reply: str) -> int:
        return len(SENTENCE_END.findall(reply.strip()))


class Bullets(Counted):
    """So many lines that begin with a dash, a star or a bullet."""

    kind: Literal["bullets"] = "bullets"

    def count(self, reply: str) -> int:
        return len(BULLET.findall(reply))


class NumberedItems(Counted):
    """So many lines that begin with a number."""

    kind: Literal["numbered"] = "numbered"

    def count(self, reply: str) -> int:
        return len(NUMBERED.findall(reply))


class Has(Check):
    """All of these words, whatever their case."""

    kind: Literal["has"] = "has"
    words: tuple[str, ...] = Field(default=(), min_length=1)

    def __call__(self, reply: str) -> bool:
        return all(_said(word, reply) for word in self.words)


class HasNot(Check):
    """None of these words."""

    kind: Literal["has_not"] = "has_not"
    words: tuple[str, ...] = Field(default=(), min_length=1)

    def __call__(self, reply: str) -> bool:
        return not any(_said(word, reply) for word in self.words)


class Begins(Check):
    """Begins with these words."""

    kind: Literal["begins"] = "begins"
    text: str = Field(default="", min_length=1)

    def __call__(self, reply: str) -> bool:
        return reply.lstrip().lower().startswith(self.text.lower())


class Ends(Check):
    """Ends with these words."""

    kind: Literal["ends"] = "ends"
    text: str = Field(default="", min_length=1)

    def __call__(self, reply: str) -> bool:
        return reply.rstrip().lower().endswith(self.text.lower())


class Format(Check):
    """Whole JSON, small letters alone or capitals alone."""

    kind: Literal["format"] = "format"
    of: Literal["json", "small", "capitals"] = "json"

    def __call__(self, reply: str) -> bool:
        if self.of == "json":
            return _is_json(reply)
        return any(letter.isalpha() for letter in reply) and reply == (
            reply.lower() if self.of == "small" else reply.upper()
        )


def _said(word: str, reply: str) -> bool:
    # Not \b, which finds no end of "C++" or "100%".
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", reply, re.IGNORECASE) is not None


def _is_json(reply: str) -> bool:
    """Whether the reply is a JSON object or list; a fence of code around it is no matter."""
    bare = re.sub(r"^```(?:json)?\s*|\s*```$", "", reply.strip())
    try:
        return isinstance(json.loads(bare), dict | list)
    except ValueError:
        return False


CHECKS: Table[Check] = Table(
    "check", Check, Words, Sentences, Bullets, NumberedItems, Has, HasNot, Begins, Ends, Format
)
AnyCheck = Annotated[SerializeAsAny[Check], BeforeValidator(CHECKS.read)]

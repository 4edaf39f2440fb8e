"""A model that follows a script: for tests, and to try a recipe without weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

from pydantic import Field

from limbeck.models.reasoning import Reasoning
from limbeck.models.spec import ModelSpec
from limbeck.records import Reply, Request
from limbeck.spec import Spec


class Line(Spec):
    """What is said where the prompt matches a regular expression; several replies are taken in turn by seed."""

    when: str = ""
    say: tuple[str, ...] = Field(min_length=1)


class Scripted(ModelSpec):
    """Replies by the first line of the script whose `when` matches the last turn; `failed` where none does."""

    kind: Literal["scripted"] = "scripted"
    script: tuple[Line, ...]
    offers: ClassVar[frozenset[str]] = frozenset({"replies"})

    @contextmanager
    def open(self) -> Iterator[ScriptedModel]:
        """The script, read."""
        yield ScriptedModel(name=self.name, script=self.script, reasoning=self.reasoning)


class ScriptedModel:
    """Says what the script says."""

    def __init__(self, *, name: str, script: Sequence[Line], reasoning: Reasoning) -> None:
        self.name = name
        self.script = script
        self.reasoning = reasoning
        said = "\n".join(line.model_dump_json() for line in script)
        self.identity = f"scripted:{hashlib.sha256(said.encode()).hexdigest()}{reasoning.mark}"

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply a request, cut to its number of words."""
        for request in requests:
            lines = [line for line in self.script if re.search(line.when, request.messages[-1].content, re.I)]
            if not lines:
                yield Reply(request_id=request.id, text="", finish="failed", why="no line of the script matches")
                continue
            whole = lines[0].say[request.seed % len(lines[0].say)]
            more = self.reasoning.max_tokens if whole.startswith(self.reasoning.opening) else 0
            words, most = whole.split(" "), request.max_tokens + more
            said = words[:most]
            finish: Literal["stop", "length"] = "stop" if len(said) == len(words) else "length"
            reply = Reply(request_id=request.id, text=" ".join(said), finish=finish, reply_tokens=len(said))
            yield self.reasoning.told_apart(reply)

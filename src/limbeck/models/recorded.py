"""A teacher whose replies are on disk: the prompts' own reference replies, or rows of JSONL, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, TypeVar

from limbeck.errors import InputError
from limbeck.files import Row, prompt_of, read_each
from limbeck.models.reasoning import Reasoning
from limbeck.models.spec import ModelSpec
from limbeck.records import Prompt, Reply, Request
from limbeck.spec import content_hash

Found = TypeVar("Found")

REPLY_COLUMNS = ("reply", "completion", "response")
REASONING_COLUMN = "reasoning"


class Said(NamedTuple):
    """A reply that was given before, and the reasoning before it where that stands in a column of its own."""

    reply: str
    reasoning: str | None = None


class Recorded(ModelSpec):
    """Replies that were given before, found by the prompt they answer; a variant gets its root's.

    `replies` is a JSONL, CSV or Parquet file with `prompt` (or `messages`), `reply` (or `completion`, `response`) and
    perhaps `reasoning`; without it the prompts' reference replies are the recording. A prompt without a reply, or with
    an empty one, is `failed`.
    """

    kind: Literal["recorded"] = "recorded"
    replies: Path | None = None
    offers: ClassVar[frozenset[str]] = frozenset({"replies"})
    redraws = False

    @contextmanager
    def open(self) -> Iterator[RecordedModel]:
        """The replies by chat."""
        if self.replies is None:
            said, identity = None, "recorded:references"
        else:
            said, identity = _read(self.replies), f"recorded:{content_hash(self.replies)}"
        reasoning = self.reasoning
        yield RecordedModel(name=self.name, identity=f"{identity}{reasoning.mark}", said=said, reasoning=reasoning)


class RecordedModel:
    """Looks a reply up. With `said` None the request itself must bring the reference reply."""

    def __init__(self, *, name: str, identity: str, said: dict[str, Said] | None, reasoning: Reasoning) -> None:
        self.name = name
        self.identity = identity
        self.said = said
        self.reasoning = reasoning

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """The recorded reply of each request, or `failed` off the recording."""
        for request in requests:
            if (said := self._said(request)) is None:
                yield Reply(request_id=request.id, text="", finish="failed", why="there is no recorded reply")
                continue
            reply = Reply(request_id=request.id, text=said.reply, finish="stop", reasoning=said.reasoning)
            if not said.reply.strip():
                reply = reply.model_copy(update={"text": "", "finish": "failed", "why": "the recorded reply is empty"})
            yield self.reasoning.told_apart(reply)

    def _said(self, request: Request) -> Said | None:
        if self.said is None:
            return None if request.reference is None else Said(request.reference)
        return self.said.get(request.prompt_id, self.said.get(request.root or ""))


def recorded_in(path: Path) -> Iterator[tuple[Prompt, Said]]:
    """Prompts and what was said to them. Raises InputError that tells of all rows without a reply or with an empty one,
    and for a file without rows."""

    def saying_something(row: Row) -> tuple[Prompt, Said]:
        prompt, said = _recorded(row)
        if not said.reply.strip():
            raise InputError(f"{row.where}: the reply is empty; write one, or leave the row out")
        return prompt, said

    yield from _each(path, saying_something)


def _read(path: Path) -> dict[str, Said]:
    """The reply to each prompt, by its id. Raises InputError that tells of all rows without a reply, or with another
    one than an earlier row of the same prompt."""
    first: dict[str, tuple[str, Said]] = {}

    def agreeing(row: Row) -> tuple[str, Said]:
        prompt, said = _recorded(row)
        before, other = first.setdefault(prompt.id, (row.where, said))
        if said != other:
            raise InputError(
                f"{row.where}: '{prompt.text[:60]}' has another reply than at {before}; keep one of them, for a "
                "recording says the same at every draw"
            )
        return prompt.id, said

    return dict(_each(path, agreeing))


def _each(path: Path, read: Callable[[Row], Found]) -> Iterator[Found]:
    empty = True
    for found in read_each(path, read):
        empty = False
        yield found
    if empty:
        raise InputError(f"{path}: there are no rows; write prompts with their replies")


def _recorded(row: Row) -> tuple[Prompt, Said]:
    """What a row says. The first of the columns that is there holds the reply, be it empty."""
    found = [row.values[name] for name in REPLY_COLUMNS if row.values.get(name) is not None]
    if not found:
        raise InputError(f"{row.where}: there is no reply; give one of the columns {', '.join(REPLY_COLUMNS)}")
    reasoning = row.values.get(REASONING_COLUMN)
    return prompt_of(row), Said(str(found[0]), str(reasoning) if reasoning else None)

"""A teacher whose replies are on disk: the prompts' own reference replies, or rows of JSONL, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from limbeck.errors import InputError
from limbeck.files import prompt_of, read_table
from limbeck.models.spec import ModelSpec
from limbeck.records import Reply, Request
from limbeck.spec import content_hash

REPLY_COLUMNS = ("reply", "completion", "response")


class Recorded(ModelSpec):
    """Replies that were given before, found by the prompt they answer; a variant gets its root's.

    `replies` is a JSONL, CSV or Parquet file with `prompt` (or `messages`) and `reply` (or `completion`, `response`);
    without it the prompts' reference replies are the recording. A prompt without a reply is `failed`.
    """

    kind: Literal["recorded"] = "recorded"
    replies: Path | None = None
    offers: ClassVar[frozenset[str]] = frozenset({"replies"})
    redraws = False

    @contextmanager
    def open(self) -> Iterator[RecordedModel]:
        """The replies by chat."""
        if self.replies is None:
            yield RecordedModel(name=self.name, identity="recorded:references", said=None)
        else:
            said = _read(self.replies)
            yield RecordedModel(name=self.name, identity=f"recorded:{content_hash(self.replies)}", said=said)


class RecordedModel:
    """Looks a reply up. With `said` None the request itself must bring the reference reply."""

    asked_together = 1

    def __init__(self, *, name: str, identity: str, said: dict[str, str] | None) -> None:
        self.name = name
        self.identity = identity
        self.said = said

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """The recorded reply of each request, or `failed` off the recording."""
        for request in requests:
            text = (
                request.reference
                if self.said is None
                else self.said.get(request.prompt_id, self.said.get(request.root or ""))
            )
            if text is None:
                yield Reply(request_id=request.id, text="", finish="failed", why="there is no recorded reply")
            else:
                yield Reply(request_id=request.id, text=text, finish="stop")


def _read(path: Path) -> dict[str, str]:
    said = {}
    for row in read_table(path):
        found = [row.values[name] for name in REPLY_COLUMNS if row.values.get(name)]
        if not found:
            raise InputError(f"{row.where}: there is no reply; give one of the columns {', '.join(REPLY_COLUMNS)}")
        said[prompt_of(row).id] = str(found[0])
    if not said:
        raise InputError(f"{path}: there are no rows; write prompts with their replies")
    return said

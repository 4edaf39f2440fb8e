"""What a model writes before its answer, and how the two are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

from pydantic import Field, model_validator

from limbeck.records import Lesson, Message, Reply, Request, known_sum
from limbeck.spec import Spec

if TYPE_CHECKING:
    from limbeck.models.local import LocalModel

WITHIN, BEFORE = "cut off within its reasoning", "cut off before its answer"
UNCLOSED = "it ended within its reasoning"


class Split(NamedTuple):
    """The reasoning of a text, None where there is none, and its answer, None where the reasoning does not end."""

    reasoning: str | None
    answer: str | None


class Reasoning(Spec):
    """How a model's reasoning is told from its answer: it stands before that, between `opening` and `closing`.

    A reply that begins with it may have `max_tokens` more than one without.
    """

    opening: str = Field(default="<think>", min_length=1)
    closing: str = Field(default="</think>", min_length=1)
    max_tokens: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _tags_can_be_found(self) -> Self:
        if self.opening == self.closing:
            raise ValueError(f"opening and closing are both '{self.opening}'; use two tags that differ")
        for tag in (self.opening, self.closing):
            if tag != tag.strip():
                raise ValueError(f"the tag {tag!r} begins or ends with space, which replies lose; leave that out")
        return self

    @property
    def mark(self) -> str:
        """What it adds to a model's identity: nothing where it is the default, so that replies kept before still
        count."""
        return "" if self == USUAL else f" {self.model_dump_json()}"

    def block(self, reasoning: str) -> str:
        """The reasoning as it stands before an answer, tags and all, in the lines of Qwen3's chat template: tokenizers
        merge no line end with the word after it, so an answer has the same tokens after any reasoning."""
        return f"{self.opening}\n{reasoning}\n{self.closing}\n\n"

    def split(self, text: str) -> Split:
        """The blocks of reasoning that a text begins with, and the rest. Tags within the answer belong to that."""
        blocks: list[str] = []
        rest = text.strip()
        while rest.startswith(self.opening):
            inside, closing, rest = rest.removeprefix(self.opening).partition(self.closing)
            if not closing:
                return Split(_joined([*blocks, self._uncut(inside).strip()]), None)
            blocks.append(inside.strip())
            rest = rest.strip()
        return Split(_joined(blocks), rest)

    def _uncut(self, inside: str) -> str:
        """Reasoning that does not end, without the beginning of a closing tag."""
        cuts = (self.closing[:length] for length in range(len(self.closing) - 1, 0, -1))
        return inside.removesuffix(next(filter(inside.endswith, cuts), ""))

    def told_apart(self, reply: Reply, *, begun: str = "") -> Reply:
        """The reply with its reasoning apart from its answer; `begun` is what of it stands in the prompt.

        One that was cut off before its answer has no text; one that ended by itself within its reasoning is failed.
        """
        text = begun + reply.text
        if reply.finish in ("blocked", "failed") or not (reply.reasoning or text.lstrip().startswith(self.opening)):
            return reply
        found = Split(reply.reasoning, reply.text) if reply.reasoning is not None else self.split(text)
        said = {"reasoning": found.reasoning, "text": found.answer or ""}
        if found.answer is None and reply.finish == "stop":
            return reply.model_copy(update={**said, "finish": "failed", "why": UNCLOSED})
        if found.answer is None or (found.reasoning is not None and reply.finish == "length" and not found.answer):
            return reply.model_copy(update={**said, "why": WITHIN if found.answer is None else BEFORE})
        return reply.model_copy(update=said)

    def skipped(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The chat up to where an answer without reasoning begins: of a model that may reason, after empty tags."""
        return (*messages, begun_by(self.block(""))) if self.max_tokens else messages


USUAL = Reasoning()


def begun_by(text: str) -> Message:
    """A turn of the assistant that a model goes on with."""
    return Message(role="assistant", content=text)


def before_answer(lesson: Lesson, reasons: Reasoning | None) -> str:
    """What a student that reasons writes before the lesson's reply, empty tags where the lesson has no reasoning;
    nothing for one that does not (`reasons` None)."""
    return "" if reasons is None else reasons.block(lesson.reasoning or "")


def thinking_first(model: LocalModel, requests: Sequence[Request]) -> Iterator[Reply]:
    """Replies of a model that need not reason by itself: the opening tag is put into its mouth, then all that it wrote
    up to its closing tag, its end or its budget, closed, and its answer is asked for. A reply that is begun already is
    gone on with as it is.

    The budget is enforced after s1 (Muennighoff et al. 2025, arXiv:2501.19393).
    """
    yield from model.replies([request for request in requests if request.is_begun])
    requests = [request for request in requests if not request.is_begun]
    reasoning = model.reasoning
    opened = {request.id: _going_on(request, f"{reasoning.opening}\n", max_tokens=1) for request in requests}
    thoughts = {reply.request_id: reply for reply in model.replies(list(opened.values()))}
    thought_of = {outer: thoughts[inner.id] for outer, inner in opened.items()}
    closed = {
        request.id: _going_on(request, reasoning.block(thought_of[request.id].reasoning or ""), request.max_tokens)
        for request in requests
    }
    asked_by = {inner.id: outer for outer, inner in closed.items()}
    for reply in model.replies(list(closed.values())):
        outer = asked_by[reply.request_id]
        thought = thought_of[outer]
        yield reply.model_copy(
            update={
                "request_id": outer,
                "reasoning": thought.reasoning,
                "prompt_tokens": thought.prompt_tokens,
                "reply_tokens": known_sum((thought.reply_tokens, reply.reply_tokens)),
            }
        )


def _going_on(request: Request, begun: str, max_tokens: int) -> Request:
    messages = (*request.messages, begun_by(begun))
    return request.model_copy(update={"messages": messages, "max_tokens": max_tokens, "closed": None})


def _joined(blocks: Sequence[str]) -> str | None:
    return "\n\n".join(filter(None, blocks)) or None

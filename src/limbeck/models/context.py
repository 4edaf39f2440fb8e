"""A model with something in its context that the student will not see: a policy, and a colleague's reply.

After context distillation (Askell et al. 2021, arXiv:2112.00861).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from limbeck.models.local import Local, LocalModel
from limbeck.models.precision import Precision
from limbeck.models.reasoning import thinking_first
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Continuation, TopK
from limbeck.records import Message, Reply, Request
from limbeck.spec import ModelName
from limbeck.taxonomy import HARMS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

POLICY = "\n".join(harm.policy for harm in HARMS)


class PrivilegedContext(ModelSpec):
    """A local model that is told a policy and, for soft labels, what a careful colleague replied and why.

    Its distribution over the colleague's reply is what the student learns; against the bare model that
    distribution would say nothing new. With `think` it reasons before it answers, whether or not it would by itself,
    for `reasoning.max_tokens` at most; `policy` tells it about what.
    """

    kind: Literal["context"] = "context"
    model: ModelName
    policy: str = POLICY
    think: bool = False
    dtype: Precision = "float32"
    batch_tokens: int = Field(default=16384, ge=1)
    offers: ClassVar[frozenset[str]] = frozenset({"replies", "distribution", "whole distribution"})

    @model_validator(mode="after")
    def _has_room_to_think(self) -> Self:
        if self.think and not self.reasoning.max_tokens:
            raise ValueError("think: true needs room for what it thinks; set reasoning.max_tokens to 1 or more")
        return self

    @contextmanager
    def open(self) -> Iterator[ContextModel]:
        """The model with its policy."""
        bare = Local(
            name=self.name,
            model=self.model,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
            reasoning=self.reasoning,
        )
        with bare.open() as model:
            yield ContextModel(model, self.policy, think=self.think)


class ContextModel:
    """Passes every question on with the policy before it."""

    asked_together = LocalModel.asked_together

    def __init__(self, model: LocalModel, policy: str, *, think: bool = False) -> None:
        self.model = model
        self.policy = policy
        self.think = think
        self.name = model.name
        self.vocabulary = model.vocabulary
        self.identity = f"{model.identity} context:{policy}{' thinking' * think}"

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Replies of the model that knows the policy."""
        informed = {
            request.id: request.model_copy(update={"messages": told(request.messages, self.policy)})
            for request in requests
        }
        asked_by = {inner.id: outer for outer, inner in informed.items()}
        inside = list(informed.values())
        replies = thinking_first(self.model, inside) if self.think else self.model.replies(inside)
        for reply in replies:
            yield reply.model_copy(update={"request_id": asked_by[reply.request_id]})

    def soft_targets(self, replies: Sequence[Continuation], *, top: int) -> Iterator[tuple[str, TopK]]:
        """Distributions behind each reply, with the policy and the reply's own reasons in context."""
        yield from self.model.soft_targets(self._informed(replies), top=top)

    def places(self, replies: Sequence[Continuation]) -> Iterator[tuple[str, Tensor]]:
        """The hidden states before each token of each reply, with the same in context."""
        yield from self.model.places(self._informed(replies))

    def logprobs(self, hidden_NH: Tensor) -> Tensor:
        """The next-token distributions at these places, nats."""
        return self.model.logprobs(hidden_NH)

    def _informed(self, replies: Sequence[Continuation]) -> list[Continuation]:
        return [one._replace(messages=self.told(one.messages, one.reply)) for one in replies]

    @property
    def weights(self) -> PreTrainedModel:
        return self.model.weights

    def told(self, messages: tuple[Message, ...], reply: str) -> tuple[Message, ...]:
        """The chat with the policy, and the reply as a colleague's, before it."""
        return told(messages, f"{self.policy}\nA careful colleague would say: {reply}")


def told(messages: tuple[Message, ...], policy: str) -> tuple[Message, ...]:
    """The chat with a policy before it."""
    return (Message(role="system", content=policy), *messages)

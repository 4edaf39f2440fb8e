"""A model with something in its context that the student will not see: a policy, examples, a colleague's reply.

After context distillation (Askell et al. 2021, arXiv:2112.00861).
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from limbeck.errors import InputError, did_you_mean, text_in
from limbeck.models.local import BATCH_TOKENS, Local, LocalModel
from limbeck.models.precision import Precision
from limbeck.models.reasoning import thinking_first
from limbeck.models.recorded import recorded_in
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Asked, Continuation, TopK
from limbeck.records import ChoiceRequest, ChoiceScores, Message, Reply, Request
from limbeck.spec import ModelName
from limbeck.taxonomy import HARMS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

POLICY = "\n".join(harm.policy for harm in HARMS)
POLICIES = Path(__file__).with_name("policies")


def policy_in(name: str) -> str:
    """The text of a policy that ships, by its name, or of a text file. Raises ValueError for another."""
    shipped = {file.stem: file for file in POLICIES.glob("*.md")}
    file = shipped.get(name, Path(name))
    if not file.exists():
        raise ValueError(f"policy '{name}' is no file and none of those shipped; {did_you_mean(name, shipped)}")
    try:
        text = text_in(file).strip()
    except InputError as error:
        raise ValueError(f"policy {error}") from error
    if not text:
        raise ValueError(f"policy {file} is empty; write what the model is to be told")
    return text


def read_policy(value: Any) -> Any:
    """A policy from its text, or from a file as {file: NAME}."""
    if not isinstance(value, Mapping):
        return value
    return policy_in(
        _named_file(value, wanted="policy; write its text, or {file: NAME}: one that ships, or a text file")
    )


def read_examples(value: Any) -> Any:
    """Turns of worked examples as they are, or from a file of replies as {file: PATH}. Raises ValueError for a file
    that is none."""
    if not isinstance(value, Mapping):
        return value
    file = _named_file(value, wanted="list of turns; write one, or {file: PATH}: a file with prompts and replies")
    try:
        return [
            turn
            for prompt, said in recorded_in(Path(file))
            for turn in (*prompt.messages, Message(role="assistant", content=said.reply))
        ]
    except InputError as error:
        raise ValueError(str(error)) from error


def _named_file(value: Mapping[str, Any], *, wanted: str) -> str:
    """What {file: NAME} names. Raises ValueError where the mapping says anything else, with what was `wanted`."""
    if set(value) != {"file"} or not isinstance(value["file"], str):
        raise ValueError(f"{reprlib.repr(dict(value))} is no {wanted}")
    return value["file"]


def _whole_talks(examples: tuple[Message, ...]) -> tuple[Message, ...]:
    for number, turn in enumerate(examples):
        due = "assistant" if number % 2 else "user"
        if turn.role != due or (due == "user" and number + 1 == len(examples)):
            raise ValueError(
                f"turn {number + 1} of the worked examples is the {turn.role}'s; write turns of user and assistant in "
                "turn, the assistant's last (what a system turn says belongs into policy)"
            )
    return examples


Policy = Annotated[str, BeforeValidator(read_policy)]
Examples = Annotated[tuple[Message, ...], BeforeValidator(read_examples), AfterValidator(_whole_talks)]


class PrivilegedContext(ModelSpec):
    """A local model that is told a policy, shown worked `examples` (turns of user and assistant before the question)
    and, for soft labels, what a careful colleague replied and why.

    Its distribution over the colleague's reply is what the student learns; against the bare model that
    distribution would say nothing new. With `think` it reasons before it answers, whether or not it would by itself,
    for `reasoning.max_tokens` at most; `policy` tells it about what.
    """

    kind: Literal["context"] = "context"
    model: ModelName
    policy: Policy = POLICY
    examples: Examples = ()
    think: bool = False
    dtype: Precision = "float32"
    batch_tokens: int = Field(default=BATCH_TOKENS, ge=1)
    offers: ClassVar[frozenset[str]] = frozenset({"replies", "scores", "distribution", "whole distribution"})
    shareable: ClassVar[bool] = True

    @property
    def bare(self) -> Local:
        """The model without its policy and examples."""
        return Local(
            name=self.name,
            model=self.model,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
            reasoning=self.reasoning,
        )

    @property
    def tokens_of(self) -> str:
        return self.model

    @model_validator(mode="after")
    def _has_room_to_think(self) -> Self:
        if self.think and not self.reasoning.max_tokens:
            raise ValueError("think: true needs room for what it thinks; set reasoning.max_tokens to 1 or more")
        return self

    @contextmanager
    def open(self) -> Iterator[ContextModel]:
        """The model with its policy and examples."""
        with self.bare.open() as model:
            yield ContextModel(model, self.policy, self.examples, think=self.think)


class _Pair(NamedTuple, Generic[Asked]):
    asked: Asked
    informed: Asked


class ContextModel:
    """Passes every question on with the policy and the examples before it."""

    def __init__(
        self, model: LocalModel, policy: str, examples: tuple[Message, ...] = (), *, think: bool = False
    ) -> None:
        self.model = model
        self.policy = policy
        self.examples = examples
        self.think = think
        self.name = model.name
        self.vocabulary = model.vocabulary
        self.tokenizer = model.tokenizer
        self.identity = f"{model.identity}{mark(policy, examples)}{' thinking' * think}"

    def reply_batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        """The requests in batches of the model, that hold the policy, too."""
        pairs = self._pairs(requests)
        batches = self.model.reply_batches([pair.informed for pair in pairs.values()])
        return [[pairs[one.id].asked for one in batch] for batch in batches]

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Replies of the model that knows the policy."""
        pairs = self._pairs(requests)
        inside = [pair.informed for pair in pairs.values()]
        for reply in thinking_first(self.model, inside) if self.think else self.model.replies(inside):
            yield reply.model_copy(update={"request_id": pairs[reply.request_id].asked.id})

    def score_batches(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceRequest]]:
        """The requests in batches of the model, that hold the policy, too."""
        pairs = self._pairs(requests)
        batches = self.model.score_batches([pair.informed for pair in pairs.values()])
        return [[pairs[one.id].asked for one in batch] for batch in batches]

    def choice_scores(self, requests: Sequence[ChoiceRequest]) -> Iterator[ChoiceScores]:
        """Scores of the model that knows the policy; bare texts are no chat, and have none before them."""
        pairs = self._pairs(requests)
        for scores in self.model.choice_scores([pair.informed for pair in pairs.values()]):
            yield scores.model_copy(update={"request_id": pairs[scores.request_id].asked.id})

    def _pairs(self, requests: Sequence[Asked]) -> dict[str, _Pair[Asked]]:
        """Each request with the policy, beside the one as it was asked, by id of the former."""
        return {pair.informed.id: pair for pair in map(self._with_policy, requests)}

    def _with_policy(self, request: Asked) -> _Pair[Asked]:
        if isinstance(request, ChoiceRequest) and request.bare:
            return _Pair(request, request)
        messages = told(request.messages, self.policy, self.examples)
        return _Pair(request, request.model_copy(update={"messages": messages}))

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
        return told_with_reply(messages, reply, self.policy, self.examples)


def mark(policy: str, examples: tuple[Message, ...]) -> str:
    """What a model's identity has for what is in its context; nothing for nothing."""
    shown = "".join(f"\n{turn.model_dump_json()}" for turn in examples)
    return f" context:{policy}{shown}" if policy or shown else ""


def told_with_reply(
    messages: tuple[Message, ...], reply: str, policy: str, examples: tuple[Message, ...]
) -> tuple[Message, ...]:
    """The chat with a policy and examples, and the reply as a colleague's, before it; as it is where there are none."""
    if not policy and not examples:
        return messages
    return told(messages, f"{policy}\nA careful colleague would say: {reply}".strip(), examples)


def told(messages: tuple[Message, ...], policy: str, examples: tuple[Message, ...] = ()) -> tuple[Message, ...]:
    """The chat with a policy before it, in one system turn with what stands there already, and worked examples."""
    if messages[0].role == "system":
        policy, messages = f"{policy}\n\n{messages[0].content}".strip(), messages[1:]
    return (*([Message(role="system", content=policy)] if policy else []), *examples, *messages)

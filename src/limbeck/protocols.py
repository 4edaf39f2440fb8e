"""What stages and instruments ask of one another, so that none has to import another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from limbeck.records import ChoiceRequest, ChoiceScores, Message, Reply, Request, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Item = TypeVar("Item")
Asked = TypeVar("Asked", Request, ChoiceRequest)


class ChatModel(Protocol):
    """Something that replies. Every request is answered exactly once, in any order.

    `identity` is a hash of what its replies hang on.
    """

    name: str
    identity: str

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]: ...


@runtime_checkable
class Batching(Protocol):
    """A model that computes replies together: by rounding each hangs on who shares its batch. Asked for one of these
    batches the model says what it says when it is asked for all."""

    def reply_batches(self, requests: Sequence[Request]) -> list[list[Request]]: ...


@runtime_checkable
class Scorer(Protocol):
    """A model that can say how likely given continuations are, in batches; `identity` as a ChatModel's."""

    identity: str

    def score_batches(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceRequest]]: ...

    def choice_scores(self, requests: Sequence[ChoiceRequest]) -> Iterator[ChoiceScores]: ...


@runtime_checkable
class Pushable(Protocol):
    """A model whose input embeddings can be pushed away from refusing before it replies: `steps` steps of gradient
    descent, `reach` times an embedding's mean length at most."""

    def pushed_replies(self, requests: Sequence[Request], *, steps: int, reach: float) -> Iterator[Reply]: ...


class TopK(NamedTuple):
    """A next-token distribution per reply token (N): the K likeliest ids, their log-probs, and the mass of the rest.

    Log-probs are nats at temperature 1; `tail_N` is the log of the mass outside the K. An id with the log-prob -inf
    only fills its place and counts to the rest.
    """

    ids_NK: Tensor
    logprobs_NK: Tensor
    tail_N: Tensor


class Spans(NamedTuple):
    """What a teacher with another tokenizer says of a reply, in rows by the student's tokens (N).

    Both tokenisations are cut into spans that end at the same byte. Where one `begins_N` and the teacher is `known_N`,
    the row holds a distribution, nats at temperature 1: over ids of the student's (`ids_NW`, each once, -1 for none),
    the span as it is written (`whole_N`; -inf where it is one token in both, and so among the ids or not), and
    everything else (`tail_N`). Where the span is several tokens of the student's, its first one is among the ids, and
    means that token and then something else. `odd_NU`, the likeliest first, are the teacher's kept tokens that are no
    token of the student's; the tail counts them.
    """

    begins_N: Tensor
    known_N: Tensor
    ids_NW: Tensor
    logprobs_NW: Tensor
    whole_N: Tensor
    odd_NU: Tensor
    tail_N: Tensor


class Drawn(NamedTuple):
    """An estimate of the next-token distribution per reply token (N) that is right in the mean, of ids that were drawn.

    `sizes_N` is how many distinct ids each token has; they stand one token after the other (S), with the log of the
    weight that stands for their probability. The weights of a token sum to 1 in the mean, not each time.
    """

    sizes_N: Tensor
    ids_S: Tensor
    logweights_S: Tensor


# What is kept of the distributions behind a reply.
Target: TypeAlias = TopK | Drawn


@runtime_checkable
class LiveTeacher(Protocol):
    """A model whose weights are here, so that its whole distribution can be taken while the student trains."""

    vocabulary: str
    name: str

    @property
    def weights(self) -> Any: ...

    def told(self, messages: tuple[Message, ...], reply: str) -> tuple[Message, ...]:
        """The chat as this model sees it before it scores a reply."""


class OutputHead(Protocol):
    """From hidden states (N, H) to logits (N, V)."""

    @property
    def weight_VH(self) -> Tensor: ...

    @property
    def bias_V(self) -> Tensor | None: ...

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Logits in no less than single precision, after the model's own scale and soft cap."""

    def before_scaling(self, slope_NV: Tensor, logits_NV: Tensor) -> Tensor:
        """From the gradient on these logits, which may be overwritten, to that on what the layer itself gives."""

    def onto_hidden(self, slope_NV: Tensor) -> Tensor:
        """From the gradient on what the layer gives to that on the hidden states (N, H)."""


class Continuation(NamedTuple):
    """A reply to be scored token by token after its prompt; `ends` adds the end of turn."""

    id: str
    messages: tuple[Message, ...]
    reply: str
    ends: bool


@runtime_checkable
class SoftLabeller(Protocol):
    """A model that gives the distribution behind each token of a reply; `vocabulary` is a hash of what its ids mean."""

    vocabulary: str

    def soft_targets(self, replies: Sequence[Continuation], *, top: int) -> Iterator[tuple[str, TopK]]:
        """Each reply's id and its distributions; one that the model will not read, or has no room for, is left out."""


# Says what is kept of a model's distributions behind each reply, by its id.
Keeping: TypeAlias = Callable[[SoftLabeller, Sequence[Continuation]], Iterator[tuple[str, Target]]]


@runtime_checkable
class WholeLabeller(Protocol):
    """A model that gives whole distributions, a few tokens at a time: of a vocabulary they are too large to be kept.

    `tokenizer` makes the tokens of a reply."""

    vocabulary: str
    tokenizer: Any

    def places(self, replies: Sequence[Continuation]) -> Iterator[tuple[str, Tensor]]:
        """The hidden states before each token of each reply, shape (N, H); none for one that exceeds the context."""

    def logprobs(self, hidden_NH: Tensor) -> Tensor:
        """The next-token distributions at some of these places, nats, shape (N, V)."""


@runtime_checkable
class SharedModel(Batching, Protocol):
    """A model that several workers have open: groups are computed side by side, each by one of them, and come as they
    are done. `vocabulary` as a SoftLabeller's."""

    vocabulary: str

    def replies_of(self, groups: Sequence[Sequence[Request]]) -> Iterator[Reply]: ...

    def targets_of(
        self, groups: Sequence[Sequence[Continuation]], keep: Keeping
    ) -> Iterator[tuple[int, Iterable[tuple[str, Target]]]]:
        """The position of each group, with what is kept of the distributions behind its replies."""


class Exchange(NamedTuple):
    """A reply and the prompt it answers, as a judge sees them; a profile's thresholds may hang on the language."""

    id: str
    prompt: str
    reply: str
    language: str = "en"


class Judge(Protocol):
    """Grades replies; one verdict for each exchange, in order, unscored where it cannot say."""

    name: str
    version: str

    def grade(self, exchanges: Sequence[Exchange]) -> Iterator[Verdict]: ...


Dtype = Literal["float32", "bfloat16", "float16"]


class Reward(NamedTuple):
    """What a reward model gives a reply, on its own scale; None with the reason where it could not read all of it."""

    value: float | None
    why: str | None = None


class RewardModel(Protocol):
    """Gives each exchange a reward, in order: how good the reply is to its prompt, higher is better."""

    identity: str

    def rewards(self, exchanges: Sequence[Exchange]) -> list[Reward]: ...


class Encoder(Protocol):
    """Text to unit vectors, shape (texts, dimensions), float32; the whole text counts, however long.

    `exact` ones are alike on every machine, for what must be: which prompts are near-duplicates, hence who is in the
    exam. Others may be computed in bfloat16 where that is faster.
    """

    def encode(self, texts: Sequence[str], *, exact: bool = False) -> NDArray[np.float32]: ...


class ReadingEncoder(Encoder, Protocol):
    """An encoder that tells, beside what short texts mean, how they are worded.

    Gives unit vectors, shape (texts, dimensions), and of the tokens' states half way up, before wording has become
    meaning, the mean, the greatest and the least, shape (texts, 3, dimensions); float32.
    """

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...


class NearDuplicates(Protocol):
    """From which cosine of their embeddings on two prompts say nearly the same: one may not be taught and the other
    measured."""

    @property
    def alike(self) -> float: ...


# One verdict for each exchange, in order.
Grading = Callable[[Sequence[Exchange]], Iterator[Verdict]]


class ModelSettings(Protocol):
    """What opens a model; one that is `shareable` is computed where it is opened, and asks no server."""

    @property
    def shareable(self) -> bool: ...

    def open(self) -> AbstractContextManager[ChatModel]: ...


class JudgeSettings(Protocol):
    """What opens a judge; `shareable` as ModelSettings'."""

    @property
    def shareable(self) -> bool: ...

    def open(self, tools: Tools) -> AbstractContextManager[Judge]: ...


class Tools(Protocol):
    """Instruments that other instruments may need, opened on first use; and who does the work of models and judges."""

    def opened(self, model: ModelSettings) -> AbstractContextManager[ChatModel]:
        """The model, in this process or a SharedModel, until the block ends."""

    def grading(self, judge: JudgeSettings, *, store: Store | None = None) -> AbstractContextManager[Grading]:
        """What the judge says, until the block ends; what its model replies in this process is kept in the store."""

    def encoder(self) -> ReadingEncoder: ...

    def chat(self, settings: Mapping[str, Any]) -> AbstractContextManager[ChatModel]:
        """The model with these settings (a kind and its keys), open until the block ends."""

    def reward(self, model: str, *, dtype: Dtype) -> AbstractContextManager[RewardModel]:
        """The reward model in this folder or with this Hub id, in memory until the block ends."""


class Store(Protocol):
    """What a stage may keep on its way, so that a killed run goes on where it was.

    `key` is a hash of all that the stage's result is made from.
    """

    @property
    def key(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def tools(self) -> Tools: ...

    def get(self, key: str) -> str | None:
        """The line kept under this key."""

    def put(self, lines: Mapping[str, str]) -> None:
        """Keep lines under their keys, in one write; they survive a kill from here on."""

    def of_judges(self) -> Store:
        """The same store, that keeps what judges ask models where all stages find it."""

    def folder(self, name: str) -> Path:
        """A folder for this stage's own files, the same one after a restart."""

    def progress(self, label: str, items: Iterable[Item], *, total: int) -> Iterator[Item]:
        """The items, with a bar that says how fast and how much longer."""

    def say(self, line: str) -> None:
        """A line for whoever watches the stage."""


class Progress(Protocol):
    """Shows how far a stage is, and says what came of it."""

    def track(self, label: str, items: Iterable[Item], *, total: int) -> Iterator[Item]: ...

    def say(self, line: str) -> None: ...

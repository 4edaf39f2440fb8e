"""A teacher behind any OpenAI-compatible server. Nothing but this file knows HTTP and async.

Axes: N reply tokens, K kept ids.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from socket import gaierror
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import anyio
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from limbeck.errors import InputError, Unreachable
from limbeck.models.context import Examples, Policy, mark, told, told_with_reply
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Continuation, TopK
from limbeck.records import Message, Reply, Request, known_sum
from limbeck.spec import Manner, MayBeFolder, Spec

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from openai import APIConnectionError, APIStatusError, AsyncOpenAI
    from transformers import PreTrainedTokenizerBase

Item = TypeVar("Item")
Answer = TypeVar("Answer")

LOG = logging.getLogger(__name__)
# Seconds that a server may ask us to wait; one that wants longer is taken for unreachable.
LONGEST_REST_S = 300.0
# Seconds without an answer after which the user is told; a busy server says "later" again and again.
PATIENCE_S = 2.0
# Characters of English text in a token, for the budget of a prompt that only the server's tokenizer could count.
CHARACTERS_A_TOKEN = 4
# What servers call a prompt that their filter stopped (OpenAI, Azure, gateways), and one that is too long for them
# (OpenAI, llama.cpp, vLLM).
FILTERED = re.compile(r"content_?(filter|policy)|moderation|policy_?violation|invalid_prompt", re.I)
TOO_LONG = re.compile(r"context.?(length|size|window)|exceed_context", re.I)
# What is asked where a server refuses a request, to see whether it takes any.
PLAIN = "Hello"
# Statuses of a gateway that did not wait for the server behind it, which may have served the request.
GATEWAY_TIMEOUTS = (504, 524)
# What httpx, or httpx2 under newer releases of the SDK, calls the end of a request that never left.
NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
# Statuses by which a server says that it has no such thing as is asked for there.
NO_SUCH_THING = (400, 404, 405, 422, 501)
# Cut quite differently by different tokenizers: figures, accents, scripts, code.
PROBE = "The 7 quick foxes can't jump 1984 naïve cafés: 北京, привет, مرحبا 🙂\n\tdef f(x): return x**2"
# What vLLM and SGLang want to hear with a chat that ends in a begun reply; llama.cpp goes on by itself.
GO_ON = {"continue_final_message": True, "add_generation_prompt": False}
# Likeliest tokens asked for at each place where answers are to be weighed: as many as OpenAI's API and vLLM give.
LIKELIEST = 20


class Price(Spec):
    """What a million tokens cost, read and written, in whatever currency the report is to count."""

    prompt: float = Field(ge=0)
    reply: float = Field(ge=0)

    def of(self, prompt_tokens: int | None, reply_tokens: int | None) -> float | None:
        """What so many tokens cost; None where they are not known."""
        if prompt_tokens is None or reply_tokens is None:
            return None
        return (prompt_tokens * self.prompt + reply_tokens * self.reply) / 1e6


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"is {url!r}; use an address as http://HOST:PORT/v1 or https://HOST/v1")
    return url


Url = Annotated[str, AfterValidator(_checked_url)]


class Endpoint(ModelSpec):
    """Replies of an OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted API).

    `base_url` is one server or several that serve the same model. Soft labels are what the server offers:
    `prompt_logprobs` scores a whole reply in one request (vLLM), `top_logprobs` asks for the next token after each
    of its beginnings (llama.cpp). Both send token ids, so `tokenizer` names the model's tokenizer. Reasoning is what
    the server tells apart, else what stands between tags; a request allows `reasoning.max_tokens` for it beside those
    of the answer. `continues` says that the server goes on from a chat whose last turn is the assistant's, as attacks
    that begin the reply need it; many servers begin a new reply instead.
    """

    kind: Literal["endpoint"] = "endpoint"
    model: str = Field(min_length=1)
    base_url: Annotated[tuple[Url, ...], BeforeValidator(_as_list), Manner()] = Field(min_length=1)
    api_key_env: Annotated[str | None, Manner()] = None
    policy: Policy = ""
    examples: Examples = ()
    extra_body: dict[str, Any] = Field(default={})
    concurrency: Annotated[int, Manner()] = Field(default=4, ge=1)
    requests_per_minute: Annotated[float | None, Manner()] = Field(default=None, gt=0)
    tokens_per_minute: Annotated[float | None, Manner()] = Field(default=None, gt=0)
    timeout_s: Annotated[float, Manner()] = Field(default=120.0, gt=0)
    retries: Annotated[int, Manner()] = Field(default=6, ge=0)
    backoff_s: Annotated[float, Manner()] = Field(default=0.5, ge=0)
    price: Price | None = None
    continues: bool = False
    soft_labels: Literal["prompt_logprobs", "top_logprobs", "none"] = "none"
    tokenizer: Annotated[str | None, MayBeFolder()] = None

    @property
    def offers(self) -> frozenset[str]:
        """Distributions only where the recipe says how the server gives them."""
        return frozenset({"replies"} if self.soft_labels == "none" else {"replies", "distribution"})

    @property
    def called(self) -> str:
        """What messages call it: one that judges, or only gives soft labels, has no name of its own."""
        return f"teacher '{self.name}'" if self.name else f"model '{self.model}'"

    @property
    def goes_on(self) -> bool:
        return self.continues

    @property
    def tokens_of(self) -> str | None:
        return self.tokenizer

    @model_validator(mode="after")
    def _names_its_tokenizer(self) -> Self:
        if self.soft_labels != "none" and self.tokenizer is None:
            raise ValueError(
                f"soft_labels: {self.soft_labels} needs 'tokenizer', a folder, Hub id or short name with the tokenizer "
                "of the model that is served"
            )
        return self

    def looked_up_later(self) -> Iterator[str]:
        """The servers. Raises InputError where the environment lacks the key."""
        self.key()
        yield from super().looked_up_later()
        for url in self.base_url:
            yield f"{url} is a server, and is asked when it is first used"

    def key(self) -> str:
        """The key from the environment; without `api_key_env` a word that stands for none."""
        if self.api_key_env is None:
            return "none"
        if not (key := os.environ.get(self.api_key_env)):
            raise InputError(
                f"{self.called}: the environment variable {self.api_key_env} is not set; set it to the key of "
                f"{self.base_url[0]}, or name another in api_key_env"
            )
        return key

    @contextmanager
    def open(self) -> Iterator[EndpointModel]:
        """Connections to the servers, until the block ends."""
        from anyio.from_thread import start_blocking_portal
        from openai import AsyncOpenAI

        key = self.key()
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            replicas = []
            for url in self.base_url:
                client = AsyncOpenAI(base_url=url, api_key=key, timeout=self.timeout_s, max_retries=0)
                replicas.append(Replica(url, stack.enter_context(portal.wrap_async_context_manager(client))))
            yield EndpointModel(self, portal, replicas)


@dataclass
class Replica:
    """One of the servers: how many requests it is working on, until when (loop's clock, seconds) it is let be and why,
    since when it does not answer, and whether the user was told of that."""

    url: str
    client: AsyncOpenAI
    busy: int = 0
    rests_until: float = 0.0
    trouble: str = ""
    silent_since: float | None = None
    told: bool = False

    @property
    def is_tried(self) -> bool:
        """Whether it did not answer, and a request finds out whether it does again: that may take all of a timeout."""
        return self.silent_since is not None and self.busy > 0

    def fell_silent(self, why: _Again, *, asked_at: float, trying_s: float) -> None:
        """One line for the whole outage, whoever else finds that it does not answer."""
        if self.silent_since is None:
            self.silent_since = asked_at
        if not self.told and self.rests_until - self.silent_since > PATIENCE_S:
            self.told = True
            LOG.warning("server at %s does not answer (%s), trying again for %.0f s", self.url, why, trying_s)

    def answered(self, *, asked_at: float) -> None:
        """The end of an outage, unless it began after this was asked."""
        if self.silent_since is None or asked_at < self.silent_since:
            return
        if self.told:
            LOG.warning("server at %s answers again", self.url)
        self.silent_since, self.told = None, False


class Pace:
    """Spaces out what is sent, so that no more than so much of it goes out in a minute."""

    def __init__(self, per_minute: float | None) -> None:
        self.seconds_each = 60 / per_minute if per_minute is not None else 0.0
        self.free_at = 0.0

    async def take(self, amount: float) -> None:
        """Returns when this much may be sent."""
        start = max(self.free_at, anyio.current_time())
        self.free_at = start + amount * self.seconds_each
        await anyio.sleep_until(start)


class _Outcome(Exception):
    """A request that has no reply, whoever asks again."""

    def __init__(self, finish: Literal["blocked", "failed"], why: str) -> None:
        super().__init__(why)
        self.finish = finish
        self.why = why


class _Declined(_Outcome):
    """A request that this server will not take, by what it is about or how long: others it may."""


class _Refused(Exception):
    """A request that a server does not take as it is. Where it takes no plain one either, `stop` ends the run."""

    def __init__(self, why: str, *, stop: InputError) -> None:
        super().__init__(why)
        self.stop = stop


class _Again(Exception):
    """What may go better another time, after `rest_s` (None: as long as the recipe says). `answered` tells that the
    server is there and that what it said is of no use, `breaks` that it may be this request that it breaks or hangs
    on."""

    def __init__(self, why: str, *, rest_s: float | None = None, answered: bool = False, breaks: bool = False) -> None:
        super().__init__(why)
        self.rest_s = rest_s
        self.answered = answered
        self.breaks = breaks


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Message(BaseModel):
    """`reasoning` is what vLLM calls it, `reasoning_content` what DeepSeek, llama.cpp and older vLLM do."""

    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @property
    def thought(self) -> str | None:
        return (self.reasoning or self.reasoning_content or "").strip() or None


class _Choice(BaseModel):
    """`text` is what a server that is asked for no chat has in the place of a message."""

    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None
    logprobs: Any = None

    @property
    def said(self) -> _Message:
        return self.message or _Message(content=self.text)


class _Chat(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Cut(BaseModel):
    tokens: list[int]


class _Logprob(BaseModel):
    logprob: float


class _Likely(_Logprob):
    id: int


class _Position(BaseModel):
    top_logprobs: list[_Likely]


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Scored(BaseModel):
    logprobs: _Logprobs | None = None
    prompt_logprobs: list[dict[int, _Logprob] | None] | None = None


class _Completion(BaseModel):
    choices: list[_Scored] = Field(min_length=1)


class _SpeltToken(BaseModel):
    token: str
    logprob: float


class _SpeltPlace(_SpeltToken):
    top_logprobs: list[_SpeltToken]


class _SpeltPlaces(BaseModel):
    content: list[_SpeltPlace]


class _Graded(BaseModel):
    category_scores: dict[str, float | None] = Field(min_length=1)


class _Moderation(BaseModel):
    results: list[_Graded] = Field(min_length=1, max_length=1)


class EndpointModel:
    """Asks the servers, several requests at a time, until each has its outcome."""

    def __init__(self, spec: Endpoint, portal: BlockingPortal, replicas: Sequence[Replica]) -> None:
        self.spec = spec
        self.portal = portal
        self.replicas = replicas
        self.name = spec.name
        # Not where it is served: a server that moves has said what it said.
        settings = json.dumps(spec.extra_body, sort_keys=True)
        self.identity = f"endpoint:{spec.model} {settings}{spec.reasoning.mark}{mark(spec.policy, spec.examples)}"
        self.slots = anyio.CapacityLimiter(spec.concurrency)
        self.requests = Pace(spec.requests_per_minute)
        self.tokens = Pace(spec.tokens_per_minute)
        self.declined = False

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that the recipe names."""
        from limbeck.models.references import load_tokenizer, resolve

        assert self.spec.tokenizer is not None
        return load_tokenizer(resolve(self.spec.tokenizer))

    @cached_property
    def vocabulary(self) -> str:
        """What the ids of soft labels mean; empty where it gives none."""
        from limbeck.models.chat import vocabulary_hash

        return vocabulary_hash(self.tokenizer) if self.spec.tokenizer is not None else ""

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply a request, as they come. Raises Unreachable when no server answers after all retries."""
        yield from self._as_they_come(self._reply, requests)

    def soft_targets(self, replies: Sequence[Continuation], *, top: int) -> Iterator[tuple[str, TopK]]:
        """The distribution behind each token of each reply. Raises InputError where the server gives less."""
        self.portal.call(self._check_tokenizer)
        for name, found in self._as_they_come(partial(self._label, top=top), replies):
            if found is not None:
                yield name, found

    def _as_they_come(self, ask: Callable[[Item], Awaitable[Answer]], items: Sequence[Item]) -> Iterator[Answer]:
        async def in_turn(item: Item) -> Answer:
            async with self.slots:
                return await ask(item)

        futures = [self.portal.start_task_soon(in_turn, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()

    async def _moderated(self, request: Request) -> Reply:
        """What the server's /moderations says of the last turn: its JSON, word for word."""
        text = request.messages[-1].content

        async def ask(text: str, client: AsyncOpenAI) -> str:
            raw = await client.moderations.with_raw_response.create(
                model=self.spec.model, input=text, extra_body=self._body()
            )
            _Moderation.model_validate_json(raw.content)
            return raw.content.decode()

        try:
            tokens = len(text) / CHARACTERS_A_TOKEN
            said = await self._call(partial(ask, text), plain=partial(ask, PLAIN), tokens=tokens)
        except _Outcome as outcome:
            return Reply(request_id=request.id, text="", finish=outcome.finish, why=outcome.why)
        return Reply(request_id=request.id, text=said, finish="stop")

    async def _reply(self, request: Request) -> Reply:
        from openai import APIConnectionError, APIStatusError

        if request.form == "moderation":
            return await self._moderated(request)
        spent: list[_Usage | None] = []
        reasoning = self.spec.reasoning
        most = request.max_tokens + reasoning.max_tokens
        settings = {"max_tokens": most, "temperature": request.temperature, "seed": request.seed}

        async def ask(request: Request, client: AsyncOpenAI) -> _Choice:
            try:
                said = await self._said(client, request, settings)
            except (APIConnectionError, APIStatusError) as error:
                if _may_be_served(error):
                    spent.append(None)
                raise
            # An answer that cannot be read was paid for, and nobody knows how much.
            spent.append(None)
            chat = _Chat.model_validate_json(said)
            spent[-1] = chat.usage
            return _usable(chat.choices[0])

        characters = sum(len(turn.content) for turn in self._informed(request.messages))
        finish: Literal["stop", "length", "blocked", "failed"]
        said, chances = _Message(), None
        try:
            tokens = characters / CHARACTERS_A_TOKEN + most
            choice = await self._call(partial(ask, request), plain=partial(ask, _plain(request)), tokens=tokens)
            finish, said, why = "length" if choice.finish_reason == "length" else "stop", choice.said, ""
            chances = _chances(choice.logprobs, request.weighed or ())
        except _Outcome as outcome:
            finish, why = outcome.finish, outcome.why
            if isinstance(outcome, _Declined):
                # What was read before it was refused may be paid for, and the server does not say.
                spent.append(None)
        prompt_tokens = known_sum(usage.prompt_tokens if usage else None for usage in spent)
        reply_tokens = known_sum(usage.completion_tokens if usage else None for usage in spent)
        text = (said.content or "").strip()
        reply = Reply(
            request_id=request.id,
            text=text,
            reasoning=said.thought,
            finish=finish,
            prompt_tokens=prompt_tokens,
            reply_tokens=reply_tokens,
            cost=None if self.spec.price is None else self.spec.price.of(prompt_tokens, reply_tokens),
            why=why,
            chances=chances,
        )
        # Where the chat template opens the reasoning, the text has its closing tag alone.
        is_open = reasoning.opening not in text and reasoning.closing in text
        return reasoning.told_apart(reply, begun=reasoning.opening if is_open else "")

    async def _said(self, client: AsyncOpenAI, request: Request, settings: Mapping[str, Any]) -> bytes:
        """What the server answers to a chat, or to a text that nothing is put around."""
        if request.form == "text":
            # The text has what a tokenizer would put before it.
            body = self._body(**settings, add_special_tokens=False)
            text = request.messages[-1].content
            raw = await client.completions.with_raw_response.create(model=self.spec.model, prompt=text, extra_body=body)
            return raw.content
        begun = GO_ON if request.is_begun else {}
        weighed = {"logprobs": True, "top_logprobs": LIKELIEST} if request.weighed else {}
        body = self._body(**settings, **begun, **weighed)
        if request.template:
            body["chat_template_kwargs"] = request.template | body.get("chat_template_kwargs", {})
        messages: list[Any] = [turn.model_dump() for turn in self._informed(request.messages)]
        chat = await client.chat.completions.with_raw_response.create(
            model=self.spec.model, messages=messages, extra_body=body
        )
        return chat.content

    def _informed(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return told(messages, self.spec.policy, self.spec.examples)

    def _body(self, **settings: Any) -> dict[str, Any]:
        """The settings with those of `extra_body` over them; one that is null there is left out."""
        return {name: value for name, value in (settings | self.spec.extra_body).items() if value is not None}

    async def _call(
        self,
        ask: Callable[[AsyncOpenAI], Awaitable[Answer]],
        *,
        plain: Callable[[AsyncOpenAI], Awaitable[object]],
        tokens: float,
    ) -> Answer:
        """What a server says in the end.

        Raises _Outcome where it will not or cannot answer this request and takes a `plain` one, InputError where it
        takes neither and the recipe is wrong, and Unreachable after `retries` more attempts on every replica.
        """
        started = anyio.current_time()
        failed, useless = Counter[str](), Counter[str]()
        trouble: dict[str, _Again] = {}
        while left := [one for one in self.replicas if failed[one.url] <= self.spec.retries]:
            now = anyio.current_time()
            replica = min(
                left,
                key=lambda one: (
                    max(one.rests_until, now),
                    one.is_tried,
                    failed[one.url] + useless[one.url],
                    one.busy,
                ),
            )
            if replica.rests_until > now + LONGEST_REST_S:
                break
            try:
                return await self._attempt(ask, replica, tokens=tokens, failed=failed[replica.url])
            except _Refused as refused:
                if await self._takes(plain, replica, tokens=tokens):
                    raise _Declined("failed", str(refused)) from refused
                raise refused.stop from refused
            except _Again as again:
                trouble[replica.url] = again
                if not again.answered:
                    failed[replica.url] += 1
                    continue
                useless[replica.url] += 1
                if useless.total() > self.spec.retries:
                    raise _Outcome("failed", f"{again}; asked {useless.total()} times") from again
        for one in self.replicas:
            last = trouble.get(one.url)
            if last is not None and last.breaks and await self._takes(plain, one, tokens=tokens):
                raise _Declined("failed", f"{last}; asked {failed[one.url]} times") from last
        seconds = anyio.current_time() - started
        tried = "; ".join(f"{one.url}: {trouble.get(one.url, one.trouble)}" for one in self.replicas)
        raise Unreachable(
            f"{self.spec.called}: no answer in {failed.total() + useless.total()} attempt(s) over {seconds:.0f} s "
            f"({tried}); see that the server runs and that the recipe asks no more of it than it allows (base_url, "
            "timeout_s, requests_per_minute), then give the same command again: a run keeps what was answered"
        )

    async def _takes(
        self, plain: Callable[[AsyncOpenAI], Awaitable[object]], replica: Replica, *, tokens: float
    ) -> bool:
        """Whether a server that refused a request, or broke or hung on it, takes a plain one: then the fault is with
        that request, and the run can go on without it."""
        for failed in range(self.spec.retries + 1):
            if replica.rests_until > anyio.current_time() + LONGEST_REST_S:
                break
            try:
                await self._attempt(plain, replica, tokens=tokens, failed=failed)
            except (_Refused, _Declined):
                return False
            except _Outcome:
                return True
            except _Again as again:
                if again.answered or again.breaks:
                    return again.answered
            else:
                return True
        return False

    async def _attempt(
        self, ask: Callable[[AsyncOpenAI], Awaitable[Answer]], replica: Replica, *, tokens: float, failed: int
    ) -> Answer:
        """What the server says once it may be asked, after so many `failed` attempts. Raises _Again where that is
        nothing or of no use, _Refused or _Outcome where asking again would not help."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        replica.busy += 1
        try:
            await anyio.sleep_until(replica.rests_until)
            await self.requests.take(1)
            await self.tokens.take(tokens)
            asked_at = anyio.current_time()
            said = await ask(replica.client)
            replica.answered(asked_at=asked_at)
            return said
        except APIStatusError as error:
            again = self._again(error, replica.url)
        except APIConnectionError as error:
            hangs = isinstance(error, APITimeoutError) and _may_be_served(error)
            hint = "; where replies are long raise timeout_s" if hangs else ""
            again = _Again(f"{_trouble(error)}{hint}", breaks=hangs)
        except ValidationError as error:
            again = _Again(f"the answer is not what was asked for ({error.errors()[0]['msg']})", answered=True)
        except _Again as error:
            again = error
        finally:
            replica.busy -= 1
        if again.answered:
            replica.answered(asked_at=asked_at)
            raise again
        rest_s = again.rest_s
        if rest_s is None:
            # Nobody waits for an attempt that is not made.
            rest_s = self._backoff_s(failed) if failed < self.spec.retries else 0.0
        replica.rests_until = max(replica.rests_until, anyio.current_time() + rest_s)
        replica.trouble = str(again)
        if failed < self.spec.retries and rest_s <= LONGEST_REST_S:
            trying_s = rest_s + sum(map(self._backoff_s, range(failed + 1, self.spec.retries)))
            replica.fell_silent(again, asked_at=asked_at, trying_s=trying_s)
        raise again

    def _backoff_s(self, failed: int) -> float:
        """The rest after one more failed attempt than this."""
        return min(self.spec.backoff_s * 2**failed, LONGEST_REST_S)

    def _again(self, error: APIStatusError, url: str) -> _Again:
        """The error as one to be retried. Raises _Declined or _Refused where that would not help."""
        called = f"{error.code} {error.type}"
        said = f"{error.status_code}, {_sentence(error)}"
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            rest_s = _retry_after_s(error.response.headers)
            said += "" if rest_s is None else f"; to be let be for {rest_s:.0f} s"
            # 503 is for later, whatever is asked.
            return _Again(said, rest_s=rest_s, breaks=error.status_code >= 500 and error.status_code != 503)
        if FILTERED.search(called):
            raise _Declined("blocked", said)
        if TOO_LONG.search(f"{called} {said}"):
            raise _Declined("failed", said)
        if error.status_code in (401, 403):
            env = self.spec.api_key_env
            remedy = f"put a key that is valid there into {env}" if env else "name the variable of its key: api_key_env"
            stop = InputError(f"{self.spec.called}: {url} does not let us in ({said}); {remedy}")
            raise _Refused(said, stop=stop)
        labels = "" if self.spec.soft_labels == "none" else "; where it refuses log-probs, set soft_labels: none"
        stop = InputError(
            f"{self.spec.called}: {url} does not take what is asked of model '{self.spec.model}' ({said}); "
            f"correct base_url, model or extra_body{labels}"
        )
        raise _Refused(said, stop=stop)

    async def _check_tokenizer(self) -> None:
        """Raises InputError where the server cuts text otherwise than the tokenizer that the recipe names, or does not
        say how."""
        from openai import APIStatusError

        async def ask(client: AsyncOpenAI) -> _Cut:
            # llama.cpp and vLLM have it beside /v1, and each its own words for what it takes.
            url = f"{str(client.base_url).rstrip('/').removesuffix('/v1')}/tokenize"
            texts = {"model": self.spec.model, "prompt": PROBE, "content": PROBE}
            bare = {"add_special_tokens": False, "add_special": False}
            try:
                cut = await client.post(url, body={**self._body(), **texts, **bare}, cast_to=str)
            except APIStatusError as error:
                if error.status_code in NO_SUCH_THING:
                    raise _Outcome("failed", f"{error.status_code}, {_sentence(error)}") from error
                raise
            return _Cut.model_validate_json(cut)

        try:
            cut = await self._call(ask, plain=ask, tokens=0)
        except _Outcome as outcome:
            raise InputError(
                f"{self.spec.called}: soft_labels: {self.spec.soft_labels} needs the server's /tokenize, to see "
                f"that it cuts text as {self.spec.tokenizer} does, and {self.replicas[0].url} does not say "
                f"({outcome.why}); use a server that does (llama.cpp, vLLM), or set soft_labels: none"
            ) from outcome
        if cut.tokens != self.tokenizer.encode(PROBE, add_special_tokens=False):
            raise InputError(
                f"{self.spec.called}: the tokenizer of {self.spec.tokenizer} cuts text otherwise than that of "
                f"{self.spec.model} on {self.replicas[0].url}: token ids would mean other tokens; name the tokenizer "
                "of the model that is served, or set soft_labels: none"
            )

    async def _label(self, one: Continuation, *, top: int) -> tuple[str, TopK | None]:
        try:
            return one.id, await self._target(one, top=top)
        except _Declined as outcome:
            if not self.declined:
                LOG.warning("%s: the server declines to score a reply (%s)", self.spec.called, outcome.why)
            self.declined = True
            return one.id, None
        except _Outcome as outcome:
            raise InputError(
                f"{self.spec.called}: there are no soft labels to be had ({outcome.why}); set soft_labels: none"
            ) from outcome

    async def _target(self, one: Continuation, *, top: int) -> TopK:
        from limbeck.models.chat import prompt_ids, reply_ids

        informed = told_with_reply(one.messages, one.reply, self.spec.policy, self.spec.examples)
        prompt = prompt_ids(self.tokenizer, informed)
        whole = prompt + reply_ids(self.tokenizer, one.reply, ends=one.ends)
        if self.spec.soft_labels == "prompt_logprobs":
            scored = await self._complete(whole, prompt_logprobs=top)
            rows = [] if scored.prompt_logprobs is None else scored.prompt_logprobs[len(prompt) :]
            likely = [{token: said.logprob for token, said in (row or {}).items()} for row in rows]
        else:
            # The longest beginning first: the server reads each token once (its prefix cache), and has no room at once.
            likely = []
            for end in reversed(range(len(prompt), len(whole))):
                scored = await self._complete(whole[:end], logprobs=top)
                content = scored.logprobs.content if scored.logprobs is not None else None
                likely.insert(0, {said.id: said.logprob for said in content[0].top_logprobs} if content else {})
        return self._top_k(likely, tokens=len(whole) - len(prompt), top=top)

    async def _complete(self, ids: Sequence[int], **wanted: int) -> _Scored:
        """What the server says of these token ids and the one after them."""

        # What a served model is may stand in `extra_body`, an adapter for one; how it is to be read is ours to say.
        body = {**self._body(), "max_tokens": 1, "temperature": 0, **wanted}

        async def ask(prompt: list[int], client: AsyncOpenAI) -> _Scored:
            raw = await client.completions.with_raw_response.create(
                model=self.spec.model, prompt=prompt, extra_body=body
            )
            return _Completion.model_validate_json(raw.content).choices[0]

        plain = self.tokenizer.encode(PLAIN, add_special_tokens=False)
        return await self._call(partial(ask, list(ids)), plain=partial(ask, plain), tokens=len(ids) + 1)

    def _top_k(self, likely: Sequence[Mapping[int, float]], *, tokens: int, top: int) -> TopK:
        """The `top` likeliest ids of each place. Raises InputError where the server said less."""
        import torch

        from limbeck.models.local import top_of

        fewest = min((len(row) for row in likely), default=0)
        if len(likely) != tokens or fewest < top:
            raise InputError(
                f"{self.spec.called}: teach.keep.ids is {top}, and {self.replicas[0].url} gives {fewest} ids with "
                f"their {self.spec.soft_labels}; lower teach.keep.ids or raise what the server allows "
                "(vLLM: --max-logprobs); where it gives none, choose the other soft_labels, or none"
            )
        rows = [sorted(row.items(), key=lambda said: -said[1])[:top] for row in likely]
        ids_NK = torch.tensor([[token for token, _ in row] for row in rows])
        return top_of(ids_NK, torch.tensor([[logprob for _, logprob in row] for row in rows]))


def _chances(logprobs: Any, answers: Sequence[str]) -> dict[str, float] | None:
    """How likely each of the answers was, in [0, 1], where the first of them is said, whatever its case and the space
    before it; one that is not among the likeliest tokens counts 0. None where the server does not tell."""
    try:
        places = _SpeltPlaces.model_validate(logprobs).content
    except ValidationError:
        return None
    meant = {answer.lower(): answer for answer in answers}
    for place in places:
        if place.token.strip().lower() in meant:
            chances = dict.fromkeys(answers, 0.0)
            # What is said need not be among the likeliest: a grammar may have left nothing else.
            for token, logprob in {one.token: one.logprob for one in (place, *place.top_logprobs)}.items():
                if (answer := meant.get(token.strip().lower())) is not None:
                    chances[answer] += math.exp(logprob)
            return chances
    return None


def _usable(choice: _Choice) -> _Choice:
    """The choice, where it says something. Raises _Outcome for one that was blocked, _Again for an empty one."""
    said, finish = choice.said, choice.finish_reason
    if finish == "content_filter":
        raise _Outcome("blocked", "the server's content filter stopped the reply")
    if said.refusal:
        raise _Outcome("blocked", f"the server refused: {said.refusal}")
    if finish not in ("stop", "length"):
        raise _Outcome("failed", f"the reply ended with finish_reason {finish}")
    # Cut off within its reasoning it would be so again.
    if not (said.content or "").strip() and not (said.thought and finish == "length"):
        raise _Again("the reply is empty", answered=True)
    return choice


def _plain(request: Request) -> Request:
    """The same request, for words that no server minds."""
    roles: list[Literal["user", "assistant"]] = ["user"]
    if request.messages[-1].role == "assistant":
        roles.append("assistant")
    return request.model_copy(update={"messages": tuple(Message(role=role, content=PLAIN) for role in roles)})


def _may_be_served(error: APIConnectionError | APIStatusError) -> bool:
    """Whether the server may have worked on a request whose answer did not come."""
    from openai import APIStatusError

    if isinstance(error, APIStatusError):
        return error.status_code in GATEWAY_TIMEOUTS
    return type(error.__cause__).__name__ not in NEVER_SENT


def _trouble(error: APIConnectionError) -> str:
    """What went wrong on the way to the server, in the system's words where it has some (connection refused)."""
    cause: BaseException | None = error
    while cause is not None:
        # OpenSSL and the look-up of names number their errors in their own ways.
        if isinstance(cause, OSError) and not isinstance(cause, (ssl.SSLError, gaierror)) and cause.errno is not None:
            return os.strerror(cause.errno).lower()
        later = cause.__cause__ or cause.__context__
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else later
    return (str(error.__cause__ or error) or error.message).rstrip(".")


def _sentence(error: APIStatusError) -> str:
    """What the server says of an error, on one line."""
    body = error.body
    said = body.get("message") or body.get("detail") if isinstance(body, dict) else body
    return " ".join(str(said or error.message).split())[:300]


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server wants to be left alone, given as such or as a date; None where it does not say."""
    said = headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None

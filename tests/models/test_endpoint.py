"""What a server may say, and what comes of it. The server is a double on loopback that follows a script."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from pydantic import ValidationError

from limbeck.errors import InputError, Unreachable
from limbeck.models.answer import ask
from limbeck.models.context import PrivilegedContext
from limbeck.models.endpoint import PLAIN, PROBE, Endpoint, Price, Replica, _Again
from limbeck.models.local import Local
from limbeck.protocols import Continuation
from limbeck.records import Lesson, Message, Prompt, Reply, Request, asked
from limbeck.spec import fingerprint
from limbeck.targets.cache import Targets
from limbeck.teach.keep import Top
from limbeck.teach.mixture import continuation
from limbeck.teach.score import score
from limbeck.teach.settings import TeachSettings
from limbeck.workspace import Silent, StageStore

SHOWN = (Message(role="user", content="And you?"), Message(role="assistant", content="Well."))


class Said(NamedTuple):
    """One answer of the double."""

    status: int
    body: Any
    headers: Mapping[str, str] = MappingProxyType({})


class Seen(NamedTuple):
    """One request that it got, and when (seconds)."""

    path: str
    body: dict[str, Any]
    key: str
    at: float

    @property
    def text(self) -> str:
        return str(self.body["messages"][-1]["content"])


class Double:
    """An OpenAI-compatible server that says what it is told to."""

    def __init__(self, script: Callable[[Seen], Said]) -> None:
        self.seen: list[Seen] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                seen = Seen(self.path, body, self.headers["authorization"], time.monotonic())
                double.seen.append(seen)
                said = script(seen)
                written = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                self.send_response(said.status)
                for name, value in {"content-type": "application/json", **said.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(written)))
                self.end_headers()
                self.wfile.write(written)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    @contextmanager
    def running(self) -> Iterator[Double]:
        thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.http.shutdown()
            self.http.server_close()
            thread.join()


def chat(text: str | None, *, finish: str = "stop", refusal: str | None = None, used: bool = True) -> Said:
    """A reply that took ten tokens to read and four to write."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    usage = {"usage": {"prompt_tokens": 10, "completion_tokens": 4}} if used else {}
    return Said(200, {"choices": [{"message": message, "finish_reason": finish}], **usage})


def refused(status: int, code: str, message: str = "no", **headers: str) -> Said:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Said(status, {"error": {"code": code, "type": "invalid_request_error", "message": message}}, headers)


def in_turn(*answers: Said) -> Callable[[Seen], Said]:
    """One answer after the other, the last one for ever."""
    waiting = list(answers)
    return lambda seen: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def backwards(seen: Seen) -> Said:
    return chat(seen.text[::-1])


def served(script: Callable[[Seen], Said]) -> AbstractContextManager[Double]:
    return Double(script).running()


def teacher(*urls: str, **more: Any) -> Endpoint:
    return Endpoint.model_validate(
        {"name": "expert", "model": "big", "base_url": urls, "retries": 2, "backoff_s": 0, **more}
    )


def requests(*texts: str, **more: Any) -> list[Request]:
    return [Request(messages=asked(text), max_tokens=9, **more) for text in texts]


def replies(spec: Endpoint, *texts: str) -> list[Reply]:
    with spec.open() as model:
        wanted = requests(*texts)
        found = {reply.request_id: reply for reply in model.replies(wanted)}
    return [found[request.id] for request in wanted]


def closed_url() -> str:
    """An address where nobody listens any more."""
    double = Double(backwards)
    double.http.server_close()
    return double.url


def test_every_request_is_answered_once() -> None:
    texts = [f"prompt {number}" for number in range(12)]
    with served(backwards) as server:
        said = replies(teacher(server.url), *texts)
    assert [(one.text, one.finish) for one in said] == [(text[::-1], "stop") for text in texts]
    assert sorted(seen.text for seen in server.seen) == sorted(texts)


def test_replies_come_as_they_are_done() -> None:
    first_is_in = threading.Event()

    def script(seen: Seen) -> Said:
        if seen.text == "slow":
            assert first_is_in.wait(timeout=30)
        return backwards(seen)

    with served(script) as server, teacher(server.url).open() as model:
        come = model.replies(requests("slow", "fast"))
        assert next(come).text == "tsaf"
        first_is_in.set()
        assert next(come).text == "wols"


def test_as_many_requests_are_in_flight_as_the_recipe_says_and_no_more() -> None:
    together = threading.Barrier(3)
    inside, most = Counter[str](), []

    def script(seen: Seen) -> Said:
        inside["now"] += 1
        together.wait(timeout=30)
        most.append(inside["now"])
        together.wait(timeout=30)
        inside["now"] -= 1
        return backwards(seen)

    with served(script) as server:
        replies(teacher(server.url, concurrency=3), *"abcdef")
    assert max(most) == 3


def test_the_server_is_asked_as_the_request_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERT_KEY", "secret")
    extra = {"max_tokens": None, "max_completion_tokens": 9, "chat_template_kwargs": {"enable_thinking": False}}
    with served(backwards) as server:
        spec = teacher(server.url, api_key_env="EXPERT_KEY", extra_body=extra)
        with spec.open() as model:
            list(model.replies(requests("Hello?", temperature=0.5, seed=3)))
    (seen,) = server.seen
    assert (seen.path, seen.key) == ("/v1/chat/completions", "Bearer secret")
    assert seen.body == {
        "model": "big",
        "messages": [{"role": "user", "content": "Hello?"}],
        "temperature": 0.5,
        "seed": 3,
        "max_completion_tokens": 9,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert "secret" not in spec.model_dump_json()


def test_a_server_that_goes_on_from_begun_replies_is_told_to_and_only_for_these() -> None:
    begun = Request(messages=(*asked("How?"), Message(role="assistant", content="Sure, first")), max_tokens=9)
    with (
        served(lambda seen: chat("you ask nicely.")) as server,
        teacher(server.url, continues=True, concurrency=1).open() as model,
    ):
        assert [reply.text for reply in model.replies([begun, *requests("Why?")])] == ["you ask nicely."] * 2
    bodies = {seen.body["messages"][-1]["content"]: seen.body for seen in server.seen}
    assert bodies["Sure, first"]["continue_final_message"] is True
    assert bodies["Sure, first"]["add_generation_prompt"] is False
    assert not {"continue_final_message", "add_generation_prompt"} & bodies["Why?"].keys()
    assert (teacher("http://a/v1").goes_on, teacher("http://a/v1", continues=True).goes_on) == (False, True)
    with served(lambda seen: chat("safe")) as server, teacher(server.url).open() as guard:
        list(guard.replies([begun.model_copy(update={"closed": True})]))
    # A guard judges the reply at the end of its chat.
    assert not {"continue_final_message", "add_generation_prompt"} & server.seen[0].body.keys()
    # What a server does not know is left out by null, like any other key.
    other = {"continue_final_message": None, "add_generation_prompt": None, "prefix": True}
    with (
        served(lambda seen: chat("you ask nicely.")) as server,
        teacher(server.url, continues=True, extra_body=other).open() as model,
    ):
        list(model.replies([begun]))
    assert server.seen[0].body["prefix"] is True and "continue_final_message" not in server.seen[0].body


def test_a_key_of_the_environment_that_the_recipe_does_not_name_is_sent_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with served(backwards) as server:
        replies(teacher(server.url), "Hello?")
    assert server.seen[0].key == "Bearer none"


@pytest.mark.parametrize(("name", "called"), [("expert", "teacher 'expert'"), ("", "model 'big'")])
def test_a_key_that_is_not_set_is_one_message_before_anything_is_asked(name: str, called: str) -> None:
    spec = teacher("http://127.0.0.1:1/v1", name=name, api_key_env="NO_SUCH_KEY")
    with pytest.raises(InputError, match=f"^{called}: the environment variable NO_SUCH_KEY is not set"), spec.open():
        pass


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_does_not_open_names_its_variable(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERT_KEY", "secret")
    with served(in_turn(refused(status, "invalid_api_key", "wrong key"))) as server:
        with pytest.raises(InputError, match=rf"does not let us in \({status}, wrong key\).* into EXPERT_KEY") as error:
            replies(teacher(server.url, api_key_env="EXPERT_KEY"), "a")
        assert "secret" not in str(error.value)
        with pytest.raises(InputError, match="name the variable of its key: api_key_env"):
            replies(teacher(server.url), "a")


@pytest.mark.parametrize(("status", "message"), [(404, "no model 'big'"), (400, "unknown field 'top_z'")])
def test_what_the_server_does_not_take_is_one_message_with_its_words(status: int, message: str) -> None:
    with (
        served(in_turn(refused(status, "bad", message))) as server,
        pytest.raises(InputError, match=rf"model 'big' \({status}, {message}\); correct base_url, model or extra_body"),
    ):
        replies(teacher(server.url), "a")


BROKEN = refused(500, "oops", "no way out")
UNFIT = refused(400, "bad", "roles must alternate")


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("places", [(0, 1), (1, 0), (7, 13), (19, 18)])
def test_a_prompt_that_a_server_refuses_or_breaks_on_is_failed_wherever_it_comes(
    places: tuple[int, int], concurrency: int
) -> None:
    breaks, unfit = (f"prompt {place}" for place in places)
    script = {breaks: BROKEN, unfit: UNFIT}
    texts = [f"prompt {number}" for number in range(20)]
    with served(lambda seen: script.get(seen.text) or backwards(seen)) as server:
        said = dict(zip(texts, replies(teacher(server.url, concurrency=concurrency), *texts), strict=True))
    assert {text: (one.text, one.finish) for text, one in said.items() if text not in script} == {
        text: (text[::-1], "stop") for text in texts if text not in script
    }
    failed = [(said[text].text, said[text].finish, said[text].why) for text in (breaks, unfit)]
    assert failed == [
        ("", "failed", "500, no way out; asked 3 times"),
        ("", "failed", "400, roles must alternate"),
    ]
    # What a plain request is answered shows that the fault is the prompt's; one that is refused is not asked again.
    asked_of = Counter(seen.text for seen in server.seen)
    assert asked_of == dict.fromkeys(texts, 1) | {breaks: 3, unfit: 1, PLAIN: 2}


@pytest.mark.parametrize(("said", "stop"), [(BROKEN, Unreachable), (UNFIT, InputError)])
@pytest.mark.parametrize("answered", [0, 5])
def test_a_server_that_answers_nothing_or_nothing_any_more_stops_the_run_soon(
    said: Said, stop: type[Exception], answered: int
) -> None:
    """Be it broken, out of credit or without the model."""
    seen_before = [backwards] * answered
    texts = [f"prompt {number}" for number in range(300)]
    with served(lambda seen: seen_before.pop()(seen) if seen_before else said) as server:
        spec = teacher(server.url, concurrency=4)
        come: list[Reply] = []
        with spec.open() as model, pytest.raises(stop, match=said.body["error"]["message"]):
            come.extend(model.replies(requests(*texts)))
    assert all(one.finish == "stop" for one in come)
    # Of 300 prompts asked three times each; those in flight are told at their own pace.
    assert len(server.seen) < 200


def test_a_replica_that_refuses_everything_stops_the_run_though_another_answers() -> None:
    with served(in_turn(refused(404, "none", "no model 'big'"))) as wrong, served(backwards) as right:
        with pytest.raises(InputError, match=rf"{wrong.url} does not take .*404, no model 'big'"):
            replies(teacher(wrong.url, right.url, concurrency=1), *"abcdef")
        assert {seen.text for seen in right.seen} <= set("abcdef")


def test_a_server_that_takes_no_begun_reply_is_a_wrong_recipe_and_not_a_wrong_prompt() -> None:
    begun = Request(messages=(*asked("How?"), Message(role="assistant", content="Sure, first")), max_tokens=9)

    def script(seen: Seen) -> Said:
        return UNFIT if "continue_final_message" in seen.body else backwards(seen)

    with (
        served(script) as server,
        teacher(server.url, continues=True).open() as model,
        pytest.raises(InputError, match="roles must alternate"),
    ):
        list(model.replies([*requests("Why?"), begun]))


def test_a_busy_server_is_waited_for_before_a_prompt_is_called_unfit() -> None:
    busy = [refused(429, "busy"), refused(503, "loading")]

    def script(seen: Seen) -> Said:
        if seen.text == "unfit":
            return UNFIT
        return busy.pop() if busy else backwards(seen)

    with served(script) as server:
        (reply,) = replies(teacher(server.url), "unfit")
    assert (reply.finish, reply.why) == ("failed", "400, roles must alternate")
    assert [seen.text for seen in server.seen] == ["unfit", PLAIN, PLAIN, PLAIN]


@pytest.mark.parametrize(
    "said",
    [
        chat(None, finish="content_filter"),
        chat(None, refusal="I cannot."),
        refused(400, "content_filter"),
        refused(400, "content_policy_violation"),
        refused(403, "moderation_blocked"),
    ],
)
def test_what_a_filter_stops_is_blocked_and_never_text(said: Said) -> None:
    with served(in_turn(said)) as server:
        (reply,) = replies(teacher(server.url), "a")
    assert (reply.finish, reply.text) == ("blocked", "") and reply.why
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "said",
    [
        refused(400, "context_length_exceeded"),
        refused(400, "exceed_context_size_error"),
        refused(400, "bad", "This model's maximum context length is 1024 tokens"),
    ],
)
def test_a_prompt_that_exceeds_the_servers_context_is_failed(said: Said) -> None:
    with served(in_turn(said)) as server:
        (reply,) = replies(teacher(server.url), "a")
    assert (reply.finish, reply.text) == ("failed", "") and reply.why.startswith("400, ")


def test_a_reply_cut_at_its_length_says_so() -> None:
    with served(in_turn(chat("Half a sen", finish="length"))) as server:
        assert [one.finish for one in replies(teacher(server.url), "a")] == ["length"]


TORN = Said(200, b'{"choices": [{"mess')


@pytest.mark.parametrize("useless", [TORN, Said(200, {"choices": []}), Said(200, b"<html>"), chat(" \n")])
def test_an_answer_that_says_nothing_is_asked_for_again(useless: Said) -> None:
    with served(in_turn(useless, useless, chat("Fine."))) as server:
        assert [(one.text, one.finish) for one in replies(teacher(server.url), "a")] == [("Fine.", "stop")]
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("useless", "why"),
    [(TORN, "the answer is not what was asked for"), (chat(""), "the reply is empty; asked 3 times")],
)
def test_an_answer_that_never_says_anything_is_failed(useless: Said, why: str) -> None:
    with served(in_turn(useless)) as server:
        (reply,) = replies(teacher(server.url), "a")
    assert reply.finish == "failed" and why in reply.why
    assert len(server.seen) == 3


def test_a_server_that_stumbles_before_it_says_nothing_is_asked_on() -> None:
    busy = refused(503, "loading")
    with served(in_turn(busy, busy, chat(""), chat("Fine."))) as server:
        assert [(one.text, one.finish) for one in replies(teacher(server.url), "a")] == [("Fine.", "stop")]
    with served(in_turn(busy, busy, chat(""))) as server:
        (reply,) = replies(teacher(server.url), "a")
    # Three empty replies; the two attempts before them had none.
    assert (reply.finish, reply.why, len(server.seen)) == ("failed", "the reply is empty; asked 3 times", 5)


def test_a_server_that_is_gone_after_one_empty_reply_is_unreachable() -> None:
    with (
        served(in_turn(chat(""), refused(503, "loading", "not yet"))) as server,
        pytest.raises(Unreachable, match=rf"no answer in 4 attempt\(s\) .*{server.url}: 503, not yet"),
    ):
        replies(teacher(server.url), "a")


@pytest.mark.parametrize("first", [True, False])
def test_where_one_replica_is_gone_the_reason_is_that_of_the_one_that_answered(first: bool) -> None:
    gone = closed_url()
    with served(in_turn(chat(""))) as server:
        urls = (gone, server.url) if first else (server.url, gone)
        (reply,) = replies(teacher(*urls), "a")
    assert (reply.finish, reply.why, len(server.seen)) == ("failed", "the reply is empty; asked 3 times", 3)


@pytest.mark.parametrize("first", [True, False])
def test_where_one_replica_is_gone_the_prompt_that_the_other_breaks_on_is_failed(first: bool) -> None:
    gone = closed_url()
    with served(lambda seen: BROKEN if seen.text == "a" else backwards(seen)) as server:
        urls = (gone, server.url) if first else (server.url, gone)
        (reply,) = replies(teacher(*urls), "a")
    assert (reply.finish, reply.why) == ("failed", "500, no way out; asked 3 times")


def test_spend_counts_every_attempt_that_was_answered() -> None:
    price = Price(prompt=1000, reply=10_000)
    with served(in_turn(chat(""), refused(500, "oops"), chat("Fine."))) as server:
        (reply,) = replies(teacher(server.url, price=price), "a")
    # Two answers of 10 tokens read and 4 written; the error cost nothing.
    assert (reply.prompt_tokens, reply.reply_tokens) == (20, 8)
    assert reply.cost == pytest.approx(20 * 0.001 + 8 * 0.01)


def test_an_answer_that_cannot_be_read_was_paid_for_and_nobody_knows_how_much() -> None:
    with served(in_turn(TORN, chat("Fine."))) as server:
        (reply,) = replies(teacher(server.url, price=Price(prompt=1000, reply=1000)), "a")
    assert (reply.text, reply.cost) == ("Fine.", None)


class Till:
    """A script that counts what it has served, whether or not the client is still there; the first answers, so many,
    wait until the others are in."""

    def __init__(self, script: Callable[[Seen], Said], *, late: int = 0) -> None:
        self.script = script
        self.late = late
        self.over = threading.Event()
        self.read = self.written = 0

    def __call__(self, seen: Seen) -> Said:
        self.late -= 1
        if self.late >= 0:
            assert self.over.wait(timeout=30)
        said = self.script(seen)
        if said.status == 200:
            self.read, self.written = self.read + 10, self.written + 4
        return said


PRICE = Price(prompt=1000, reply=10_000)


def test_what_replies_cost_is_what_the_server_counted() -> None:
    texts = [f"prompt {number}" for number in range(12)]
    waiting = [chat(""), refused(500, "oops"), refused(429, "busy"), chat("")]
    till = Till(lambda seen: waiting.pop() if waiting else backwards(seen))
    with served(till) as server:
        said = replies(teacher(server.url, retries=4, price=PRICE), *texts)
    assert sum(one.prompt_tokens or 0 for one in said) == till.read == (12 + 2) * 10
    assert sum(one.cost or 0 for one in said) == pytest.approx(till.read * 0.001 + till.written * 0.01)


def test_what_a_server_serves_when_nobody_waits_for_it_is_no_known_cost() -> None:
    till = Till(backwards, late=1)
    with served(till) as server:
        spec = teacher(server.url, timeout_s=1.0, concurrency=1, price=PRICE)
        late, prompt = replies(spec, "a", "b")
        till.over.set()
    # The server has served three requests, and two answers came.
    assert (late.text, prompt.text, len(server.seen)) == ("a", "b", 3)
    assert (late.prompt_tokens, late.reply_tokens, late.cost) == (None, None, None)
    assert (prompt.prompt_tokens, prompt.cost) == (10, pytest.approx(10 * 0.001 + 4 * 0.01))


def test_a_server_that_is_not_there_yet_costs_nothing() -> None:
    gone = closed_url()
    with served(backwards) as server:
        (reply,) = replies(teacher(gone, server.url, price=PRICE), "a")
    assert reply.cost == pytest.approx(10 * 0.001 + 4 * 0.01)


@pytest.mark.parametrize(
    "said", [refused(400, "content_filter"), refused(400, "context_length_exceeded"), UNFIT, BROKEN]
)
def test_what_a_refused_prompt_costs_is_not_known_and_not_nothing(said: Said) -> None:
    with served(lambda seen: said if seen.text == "a" else backwards(seen)) as server:
        (reply,) = replies(teacher(server.url, price=PRICE), "a")
    assert reply.finish in ("blocked", "failed")
    assert (reply.prompt_tokens, reply.reply_tokens, reply.cost) == (None, None, None)


@pytest.mark.parametrize("status", [504, 524])
def test_what_a_gateway_did_not_wait_for_may_have_been_served(status: int) -> None:
    with served(in_turn(refused(status, "timeout"), chat("Fine."))) as server:
        (reply,) = replies(teacher(server.url, price=PRICE), "a")
    assert (reply.text, reply.cost) == ("Fine.", None)


def test_a_cost_that_nobody_knows_is_none() -> None:
    with served(backwards) as server:
        assert [one.cost for one in replies(teacher(server.url), "a")] == [None]
    with served(in_turn(chat("Fine.", used=False))) as server:
        assert [one.cost for one in replies(teacher(server.url, price=Price(prompt=1, reply=1)), "a")] == [None]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(status: int) -> None:
    with served(in_turn(refused(status, "busy"), refused(status, "busy"), chat("Fine."))) as server:
        assert [one.text for one in replies(teacher(server.url), "a")] == ["Fine."]


@pytest.mark.parametrize("wait", ["0.2", formatdate(time.time() - 9, usegmt=True)])
def test_a_server_is_let_be_for_as_long_as_it_asks(wait: str) -> None:
    with served(in_turn(refused(429, "slow_down", retry_after=wait), chat("Fine."))) as server:
        # Left to the recipe, the second attempt would come after an hour.
        assert [one.text for one in replies(teacher(server.url, backoff_s=3600), "a")] == ["Fine."]
    first, second = server.seen
    assert second.at - first.at >= (0.2 if wait == "0.2" else 0)


def test_a_server_that_is_always_busy_is_unreachable_with_what_it_said() -> None:
    with (
        served(in_turn(refused(429, "busy", "try later"))) as server,
        pytest.raises(Unreachable, match=rf"'expert': no answer in 3 att.*{server.url}: 429, try later") as error,
    ):
        replies(teacher(server.url), "a")
    assert error.value.exit_code == 3 and len(server.seen) == 3


def test_a_server_that_asks_for_a_day_is_not_waited_for() -> None:
    with (
        served(in_turn(refused(429, "busy", "out of budget", retry_after="86400"))) as server,
        pytest.raises(Unreachable, match=r"no answer in 1 attempt\(s\).*out of budget; to be let be for 86400 s"),
    ):
        replies(teacher(server.url), "a")


def test_who_comes_later_is_told_why_a_server_is_let_be() -> None:
    with (
        served(in_turn(refused(429, "busy", "out of budget", retry_after="86400"))) as server,
        teacher(server.url, concurrency=1).open() as model,
    ):
        for attempts, text in (1, "a"), (0, "b"), (0, "c"):
            why = rf"no answer in {attempts} attempt\(s\) over 0 s \({server.url}: 429, out of budget; to be let be for"
            with pytest.raises(Unreachable, match=why):
                list(model.replies(requests(text)))
    assert len(server.seen) == 1


def test_a_storm_of_429_leaves_every_request_answered_once() -> None:
    calls = Counter[str]()

    def script(seen: Seen) -> Said:
        calls[seen.text] += 1
        return refused(429, "rate_limit_exceeded") if calls[seen.text] <= 5 else backwards(seen)

    texts = [f"prompt {number}" for number in range(20)]
    with served(script) as server:
        said = replies(teacher(server.url, retries=5), *texts)
    assert [(one.text, one.finish) for one in said] == [(text[::-1], "stop") for text in texts]
    assert set(calls.values()) == {6}


def test_servers_that_are_not_there_are_all_named() -> None:
    gone = [closed_url(), closed_url()]
    said = rf"no answer in 6 attempt\(s\) over \d+ s \({gone[0]}: connection refused; {gone[1]}: connection refused\)"
    with pytest.raises(Unreachable, match=said) as error:
        replies(teacher(*gone), "a")
    assert error.value.exit_code == 3


def test_an_outage_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    # Long enough to be told, and all four that are in flight run into it.
    waiting = [refused(503, "loading", "loading model", retry_after="2.1")] * 4

    def script(seen: Seen) -> Said:
        return waiting.pop() if waiting else backwards(seen)

    with served(script) as server:
        said = replies(teacher(server.url, concurrency=4, retries=3, backoff_s=1), *"abcdefgh")
    assert [one.text for one in said] == list("abcdefgh")
    # 2.1 s as the server asks, then the recipe's 2 and 4.
    assert caplog.messages == [
        f"server at {server.url} does not answer (503, loading model; to be let be for 2 s), trying again for 8 s",
        f"server at {server.url} answers again",
    ]


def test_a_server_that_only_stumbles_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    with served(in_turn(refused(429, "busy"), refused(500, "oops"), chat("Fine."))) as server:
        replies(teacher(server.url), "a")
    assert caplog.messages == []


def test_an_answer_from_before_an_outage_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    replica = Replica("http://a/v1", client=None, rests_until=100.0)  # type: ignore[arg-type]
    replica.fell_silent(_Again("connection refused"), asked_at=10.0, trying_s=31.5)
    replica.answered(asked_at=9.0)
    replica.fell_silent(_Again("connection refused"), asked_at=12.0, trying_s=15.0)
    assert caplog.messages == ["server at http://a/v1 does not answer (connection refused), trying again for 32 s"]
    replica.answered(asked_at=13.0)
    replica.fell_silent(_Again("timed out"), asked_at=20.0, trying_s=4.0)
    assert len(caplog.messages) == 3


def test_a_server_that_takes_too_long_is_unreachable() -> None:
    over = threading.Event()

    def script(seen: Seen) -> Said:
        over.wait(timeout=30)
        return backwards(seen)

    with served(script) as server:
        with pytest.raises(Unreachable, match="timed out"):
            replies(teacher(server.url, timeout_s=0.1, retries=0), "a")
        over.set()
    assert [seen.text for seen in server.seen] == ["a", PLAIN]


def test_a_prompt_that_a_server_hangs_on_is_failed_and_the_others_are_answered() -> None:
    over = threading.Event()

    def script(seen: Seen) -> Said:
        if seen.text == "b":
            over.wait(timeout=30)
        return backwards(seen)

    with served(script) as server:
        first, hung, last = replies(teacher(server.url, timeout_s=1.0, concurrency=1, price=PRICE), *"abc")
        over.set()
    assert [(one.text, one.finish) for one in (first, hung, last)] == [("a", "stop"), ("", "failed"), ("c", "stop")]
    assert "timed out" in hung.why and hung.why.endswith("; asked 3 times")
    # The server may have worked on it each time.
    assert hung.cost is None
    assert Counter(seen.text for seen in server.seen) == {"a": 1, "b": 3, "c": 1, PLAIN: 1}


def test_a_policy_and_examples_stand_before_every_chat_and_change_what_it_is() -> None:
    with served(backwards) as server:
        (bare,) = replies(teacher(server.url), "a")
        spec = teacher(server.url, policy="Be brief.", examples=SHOWN)
        (informed,) = replies(spec, "a")
        own = Request(messages=(Message(role="system", content="Speak up."), *asked("a")), max_tokens=9)
        with spec.open() as model, teacher(server.url).open() as other:
            list(model.replies([own]))
            assert model.identity != other.identity
    assert bare.request_id == informed.request_id
    before = [[turn["content"] for turn in seen.body["messages"]] for seen in server.seen]
    shown = [turn.content for turn in SHOWN]
    assert before == [["a"], ["Be brief.", *shown, "a"], ["Be brief.\n\nSpeak up.", *shown, "a"]]


def test_examples_alone_need_no_system_turn() -> None:
    with served(backwards) as server:
        replies(teacher(server.url, examples=SHOWN), "a")
    assert [turn["role"] for turn in server.seen[0].body["messages"]] == ["user", "assistant", "user"]


def test_the_other_replica_answers_where_one_is_gone() -> None:
    gone = closed_url()
    with served(backwards) as server:
        said = replies(teacher(gone, server.url, backoff_s=60), *"abcdef")
    assert [one.text for one in said] == list("abcdef")
    assert len(server.seen) == 6


def test_a_replica_that_did_not_answer_gets_one_request_at_a_time_until_it_does() -> None:
    others_are_in, together = threading.Event(), threading.Barrier(3)

    def hanging(seen: Seen) -> Said:
        if seen.text == "first":
            return refused(503, "busy")
        assert others_are_in.wait(timeout=30)
        return backwards(seen)

    def well(seen: Seen) -> Said:
        if seen.text != "first":
            # Of four requests at a time three come here.
            together.wait(timeout=5)
            if len(other.seen) == 7:
                others_are_in.set()
        return backwards(seen)

    with served(hanging) as one, served(well) as other, teacher(one.url, other.url, concurrency=4).open() as model:
        list(model.replies(requests("first")))
        list(model.replies(requests(*"abcdefg")))
    assert (len(one.seen), len(other.seen)) == (2, 7)


def test_replicas_share_the_work() -> None:
    together = threading.Barrier(2)

    def script(seen: Seen) -> Said:
        together.wait(timeout=30)
        return backwards(seen)

    with served(script) as one, served(script) as other:
        replies(teacher(one.url, other.url, concurrency=2), *"abcd")
    assert (len(one.seen), len(other.seen)) == (2, 2)


@pytest.mark.parametrize(
    "budget",
    # One request costs 25 of the tokens: 64 characters are 16, and 9 for the reply.
    [{"requests_per_minute": 600}, {"tokens_per_minute": 600 * 25}],
)
def test_no_more_is_asked_in_a_minute_than_the_recipe_allows(budget: dict[str, float]) -> None:
    with served(backwards) as server:
        replies(teacher(server.url, concurrency=5, **budget), *(letter * 64 for letter in "abcde"))
    times = sorted(seen.at for seen in server.seen)
    # 600 a minute are one every 100 ms; how much longer the first may be on its way than the last is not the budget's.
    assert times[-1] - times[0] >= 4 * 0.1 - 0.08


class Killing(Silent):
    """Dies when the fourth reply comes."""

    def track(self, label: str, items: Iterable[Any], *, total: int) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 3:
                raise KeyboardInterrupt
            yield item


def test_a_kill_loses_only_what_is_in_flight(store: StageStore) -> None:
    texts = [f"prompt {number}" for number in range(8)]
    with served(backwards) as server:
        spec = teacher(server.url, concurrency=1, price=Price(prompt=1, reply=1))
        with pytest.raises(KeyboardInterrupt), spec.open() as model:
            list(ask(model, requests(*texts), replace(store, shown=Killing()), label=""))
        with spec.open() as model:
            said = list(ask(model, requests(*texts), store, label=""))
    assert [one.text for one in said] == [text[::-1] for text in texts]
    again = [text for text, times in Counter(seen.text for seen in server.seen).items() if times > 1]
    # The fourth reply had come and was not kept; the fifth was perhaps on its way.
    assert len(again) in (1, 2)
    assert sum(one.cost or 0 for one in said) == pytest.approx(8 * 14e-6)


def test_what_was_answered_counts_wherever_the_server_stands() -> None:
    one, other = teacher("http://127.0.0.1:1/v1"), teacher("http://127.0.0.1:2/v1", concurrency=9, timeout_s=3)
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(teacher("http://127.0.0.1:1/v1", extra_body={"top_p": 0.9}))
    with one.open() as first, other.open() as second, teacher("http://127.0.0.1:1/v1", model="small").open() as third:
        assert first.identity == second.identity != third.identity


QUESTION = Continuation("egg", asked("How long does an egg take?"), "Ten minutes.", ends=True)
COLOUR = Continuation("sky", asked("What colour is the sky?"), "Blue", ends=False)


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> Iterator[Any]:
    with Local(name="local", model=str(tiny_model)).open() as model:
        yield model


def scoring(local: Any, *, at_most: int = 99) -> Callable[[Seen], Said]:
    """What vLLM and llama.cpp say of token ids that the tiny model scores: both forms, each where it is asked for."""

    def row(logprobs_V: torch.Tensor, top: int) -> list[tuple[int, float]]:
        values, ids = logprobs_V.topk(min(top, at_most))
        return list(zip(ids.tolist(), values.tolist(), strict=True))

    def script(seen: Seen) -> Said:
        if seen.path == "/tokenize":
            assert seen.body["prompt"] == seen.body["content"] == PROBE
            return Said(200, {"tokens": local.tokenizer.encode(PROBE, add_special_tokens=False)})
        assert seen.path == "/v1/completions"
        with torch.inference_mode():
            ids = torch.tensor([seen.body["prompt"]])
            logprobs_TV = local.weights(ids).logits[0].log_softmax(-1)
        if "prompt_logprobs" in seen.body:
            rows = [row(one, seen.body["prompt_logprobs"]) for one in logprobs_TV[:-1]]
            told = [None, *({str(token): {"logprob": value, "rank": 1} for token, value in one} for one in rows)]
            return Said(200, {"choices": [{"text": "x", "logprobs": None, "prompt_logprobs": told}]})
        likely = [{"id": token, "logprob": value} for token, value in row(logprobs_TV[-1], seen.body["logprobs"])]
        return Said(200, {"choices": [{"text": "x", "logprobs": {"content": [{"top_logprobs": likely}]}}]})

    return script


def labels(spec: Endpoint, *wanted: Continuation, top: int = 4) -> dict[str, Any]:
    with spec.open() as model:
        return dict(model.soft_targets(wanted, top=top))


@pytest.mark.parametrize(("way", "asked_for"), [("prompt_logprobs", 2), ("top_logprobs", 13 + 4)])
def test_soft_labels_are_those_of_the_same_model_in_this_process(
    way: str, asked_for: int, local: Any, tiny_model: Path
) -> None:
    with served(scoring(local)) as server:
        found = labels(teacher(server.url, soft_labels=way, tokenizer=str(tiny_model)), QUESTION, COLOUR)
    expected = dict(local.soft_targets([QUESTION, COLOUR], top=4))
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert torch.equal(found[name].ids_NK, one.ids_NK)
        torch.testing.assert_close(found[name].logprobs_NK, one.logprobs_NK, rtol=0, atol=1e-4)
        torch.testing.assert_close(found[name].tail_N, one.tail_N, rtol=0, atol=1e-3)
    assert sum(seen.path == "/v1/completions" for seen in server.seen) == asked_for


@pytest.mark.parametrize("way", ["prompt_logprobs", "top_logprobs"])
@pytest.mark.parametrize(
    "informed", [{"policy": "Be brief."}, {"policy": "", "examples": SHOWN}, {"policy": "Be brief.", "examples": SHOWN}]
)
def test_soft_labels_under_a_policy_are_those_of_the_same_model_told_the_same(
    way: str, informed: dict[str, Any], local: Any, tiny_model: Path
) -> None:
    with served(scoring(local)) as server:
        spec = teacher(server.url, soft_labels=way, tokenizer=str(tiny_model), **informed)
        found = labels(spec, QUESTION)
    with PrivilegedContext(name="expert", model=str(tiny_model), **informed).open() as model:
        ((_, expected),) = model.soft_targets([QUESTION], top=4)
    assert torch.equal(found[QUESTION.id].ids_NK, expected.ids_NK)
    torch.testing.assert_close(found[QUESTION.id].logprobs_NK, expected.logprobs_NK, rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", ["prompt_logprobs", "top_logprobs"])
def test_soft_labels_are_those_of_the_model_that_extra_body_chooses(way: str, local: Any, tiny_model: Path) -> None:
    extra = {"lora": [{"id": 0, "scale": 1.0}], "temperature": 0.7, "max_tokens": None, "top_k": None}
    with served(scoring(local)) as server:
        spec = teacher(server.url, soft_labels=way, tokenizer=str(tiny_model), extra_body=extra)
        assert labels(spec, COLOUR).keys() == {COLOUR.id}
    assert all(seen.body["lora"] == extra["lora"] and "top_k" not in seen.body for seen in server.seen)
    # How a reply is read is not the recipe's to say.
    scored = [seen.body for seen in server.seen if seen.path == "/v1/completions"]
    assert {(body["max_tokens"], body["temperature"]) for body in scored} == {(1, 0)}


@pytest.mark.parametrize("way", ["prompt_logprobs", "top_logprobs"])
def test_soft_labels_with_fewer_ids_than_asked_for_are_refused(way: str, local: Any, tiny_model: Path) -> None:
    with (
        served(scoring(local, at_most=3)) as server,
        pytest.raises(InputError, match=f"teach.keep.ids is 4, and .* gives 3 ids with their {way}"),
    ):
        labels(teacher(server.url, soft_labels=way, tokenizer=str(tiny_model)), QUESTION)


@pytest.mark.parametrize("way", ["prompt_logprobs", "top_logprobs"])
def test_a_server_that_keeps_its_log_probs_is_one_message(way: str, local: Any, tiny_model: Path) -> None:
    def script(seen: Seen) -> Said:
        return scoring(local)(seen) if seen.path == "/tokenize" else Said(200, {"choices": [{"text": "x"}]})

    with (
        served(script) as server,
        pytest.raises(InputError, match=r"gives 0 ids .*choose the other soft_labels, or none"),
    ):
        labels(teacher(server.url, soft_labels=way, tokenizer=str(tiny_model)), QUESTION)


def test_a_server_that_refuses_log_probs_is_one_message_with_its_words(local: Any, tiny_model: Path) -> None:
    def script(seen: Seen) -> Said:
        return scoring(local)(seen) if seen.path == "/tokenize" else refused(422, "bad", "Unexpected keys: logprobs")

    with (
        served(script) as server,
        pytest.raises(InputError, match=r"422, Unexpected keys: logprobs\); .*log-probs, set soft_labels: none"),
    ):
        labels(teacher(server.url, soft_labels="top_logprobs", tokenizer=str(tiny_model)), QUESTION)


def test_a_server_that_cuts_text_otherwise_gives_no_soft_labels(tiny_model: Path) -> None:
    for said, why in (TORN, "not what was asked for"), (refused(404, "x", "no such page"), "404, no such page"):
        needs = rf"soft_labels: top_logprobs needs the server's /tokenize, .*{why}"
        with served(in_turn(said)) as server, pytest.raises(InputError, match=needs) as error:
            labels(teacher(server.url, soft_labels="top_logprobs", tokenizer=str(tiny_model)), QUESTION)
        assert "correct base_url" not in str(error.value)
    with (
        served(in_turn(Said(200, {"tokens": [1, 2, 3]}))) as server,
        pytest.raises(InputError, match=r"cuts text otherwise than that of big .*: token ids would mean other tokens"),
    ):
        labels(teacher(server.url, soft_labels="top_logprobs", tokenizer=str(tiny_model)), QUESTION)


@pytest.mark.parametrize("why", ["context_length_exceeded", "content_policy_violation"])
def test_a_reply_that_a_server_declines_to_score_is_left_out(why: str, local: Any, tiny_model: Path) -> None:
    def script(seen: Seen) -> Said:
        declined = seen.path != "/tokenize" and "egg" in local.tokenizer.decode(seen.body["prompt"])
        return refused(400, why, "not this") if declined else scoring(local)(seen)

    with served(script) as server:
        spec = teacher(server.url, soft_labels="prompt_logprobs", tokenizer=str(tiny_model))
        assert labels(spec, QUESTION, COLOUR).keys() == {COLOUR.id}


@pytest.mark.parametrize("said", [BROKEN, UNFIT])
@pytest.mark.parametrize("way", ["prompt_logprobs", "top_logprobs"])
def test_a_reply_that_a_server_breaks_on_is_left_out_and_the_others_are_scored(
    way: str, said: Said, local: Any, tiny_model: Path
) -> None:
    def script(seen: Seen) -> Said:
        broken = seen.path != "/tokenize" and "egg" in local.tokenizer.decode(seen.body["prompt"])
        return said if broken else scoring(local)(seen)

    with served(script) as server:
        spec = teacher(server.url, soft_labels=way, tokenizer=str(tiny_model))
        assert labels(spec, QUESTION, COLOUR).keys() == {COLOUR.id}


@pytest.mark.parametrize("way", ["prompt_logprobs", "top_logprobs"])
def test_a_kill_loses_only_the_soft_labels_that_are_in_flight(
    way: str, store: StageStore, local: Any, tiny_model: Path
) -> None:
    # A byte is a token, and so is the end of the turn.
    lessons = [
        Lesson(prompt=Prompt(messages=asked(f"Prompt {number}?")), reply="Fine.", teacher="expert")
        for number in range(8)
    ]
    requests_each = 1 if way == "prompt_logprobs" else 6
    student = Local(name="base", model=str(tiny_model))
    made = []
    with served(scoring(local)) as server:
        spec = teacher(server.url, concurrency=1, soft_labels=way, tokenizer=str(tiny_model))
        settings = TeachSettings.model_validate({"teachers": [spec], "keep": Top(ids=4)})
        with pytest.raises(KeyboardInterrupt):
            score(settings, student, lessons, None, store=replace(store, shown=Killing()))
        assert not list(store.folder("targets").iterdir())
        made.append(score(settings, student, lessons, None, store=store))
        asked_for = Counter(tuple(seen.body["prompt"]) for seen in server.seen if seen.path == "/v1/completions")
        # The fourth reply had come and was kept; the fifth was perhaps on its way.
        assert len(asked_for) == 8 * requests_each
        assert sum(times - 1 for times in asked_for.values()) <= requests_each
        # Another stage over the same replies asks nothing.
        before = len(server.seen)
        made.append(score(settings, student, lessons, None, store=replace(store, root=store.root / "other")))
        assert len(server.seen) == before
    fresh, kept = (Targets(one.folders) for one in made)
    expected = dict(local.soft_targets([continuation(lesson, None) for lesson in lessons], top=4))
    for name, one in expected.items():
        for found in fresh[name], kept[name]:
            assert torch.equal(found.ids_NK, one.ids_NK)
            torch.testing.assert_close(found.logprobs_NK, one.logprobs_NK, rtol=0, atol=5e-3)
            torch.testing.assert_close(found.tail_N, one.tail_N, rtol=0, atol=1e-3)


def test_soft_labels_that_are_kept_are_not_those_of_another_chat_template(
    store: StageStore, local: Any, tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    template = folder / "chat_template.jinja"
    lessons = [Lesson(prompt=Prompt(messages=asked("Why?")), reply="So.", teacher="expert")]
    found = []
    with served(scoring(local)) as server:
        spec = teacher(server.url, soft_labels="prompt_logprobs", tokenizer=str(folder))
        settings = TeachSettings.model_validate({"teachers": [spec], "keep": Top(ids=4)})
        for number in range(2):
            stage = replace(store, root=store.root / str(number))
            made = score(settings, Local(name="base", model=str(tiny_model)), lessons, None, store=stage)
            found.append(Targets(made.folders)[lessons[0].id].logprobs_NK)
            template.write_text(template.read_text().replace("message['role']", "message['role'] | upper"))
    assert len([seen for seen in server.seen if seen.path == "/v1/completions"]) == 2
    assert not torch.equal(*found)


def test_a_server_that_breaks_on_all_that_it_is_to_score_stops_the_run(local: Any, tiny_model: Path) -> None:
    with (
        served(lambda seen: scoring(local)(seen) if seen.path == "/tokenize" else BROKEN) as server,
        pytest.raises(Unreachable, match="500, no way out"),
    ):
        labels(teacher(server.url, soft_labels="prompt_logprobs", tokenizer=str(tiny_model)), QUESTION, COLOUR)


def test_a_server_that_says_nothing_of_use_of_a_reply_is_one_message(local: Any, tiny_model: Path) -> None:
    with (
        served(lambda seen: scoring(local)(seen) if seen.path == "/tokenize" else TORN) as server,
        pytest.raises(InputError, match=r"no soft labels to be had \(the answer is .*\); set soft_labels: none"),
    ):
        labels(teacher(server.url, soft_labels="prompt_logprobs", tokenizer=str(tiny_model)), QUESTION)


def test_an_endpoint_offers_what_the_recipe_says_that_its_server_gives(tiny_model: Path) -> None:
    assert teacher("http://a/v1").offers == {"replies"}
    spec = teacher("http://a/v1", soft_labels="top_logprobs", tokenizer=str(tiny_model))
    assert spec.offers == {"replies", "distribution"}
    with pytest.raises(ValidationError, match="soft_labels: top_logprobs needs 'tokenizer'"):
        teacher("http://a/v1", soft_labels="top_logprobs")


def test_one_url_need_not_be_a_list() -> None:
    spec = Endpoint(name="expert", model="big", base_url="http://a/v1")  # type: ignore[arg-type]
    assert spec.base_url == ("http://a/v1",)


def test_an_endpoint_without_a_server_is_refused() -> None:
    wrong: Sequence[str] = ()
    with pytest.raises(ValidationError, match="base_url"):
        teacher(*wrong)


def thinking(text: str | None, *, finish: str = "stop", **more: str) -> Said:
    """A reply of a server that tells reasoning apart, under the name that it has for it."""
    said = chat(text, finish=finish)
    said.body["choices"][0]["message"] |= more
    return said


@pytest.mark.parametrize(
    "said",
    [
        thinking("So.", reasoning="Hm."),
        thinking("So.", reasoning_content="Hm."),
        thinking("\n\nSo.", reasoning="\nHm.\n", reasoning_content="\nHm.\n"),
        thinking("<think>\nHm.\n</think>\n\nSo."),
        # The chat template has opened it.
        thinking("Hm.\n</think>\n\nSo."),
    ],
)
def test_reasoning_is_what_the_server_tells_apart_else_what_stands_between_tags(said: Said) -> None:
    with served(in_turn(said)) as server:
        (reply,) = replies(teacher(server.url), "Why?")
    assert (reply.text, reply.reasoning, reply.finish) == ("So.", "Hm.", "stop")


@pytest.mark.parametrize(
    "said", [thinking(None, finish="length", reasoning="Hm."), thinking("<think>Hm.", finish="length")]
)
def test_a_reply_cut_off_within_its_reasoning_is_an_outcome_and_is_not_asked_again(said: Said) -> None:
    with served(in_turn(said)) as server:
        (reply,) = replies(teacher(server.url), "Why?")
        assert len(server.seen) == 1
    assert (reply.text, reply.answer, reply.reasoning, reply.finish) == ("", None, "Hm.", "length")
    assert reply.why.startswith("cut off ")


def test_a_server_is_allowed_the_tokens_of_the_reasoning_beside_those_of_the_answer() -> None:
    with served(backwards) as server:
        replies(teacher(server.url, reasoning={"max_tokens": 100}), "Why?")
        assert server.seen[0].body["max_tokens"] == 109

"""Guards behind a server: turns and arguments for its chat template, a finished text, or /moderations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from math import log
from typing import Any

import pytest

from limbeck.judges import JUDGES
from limbeck.models.encoder import ModelTools
from limbeck.protocols import Exchange
from limbeck.records import Message, Verdict

PROMPT, REPLY = "How do I get my own llama?", "Just steal one."
TURNS = (Message(role="user", content=PROMPT), Message(role="assistant", content=REPLY))


def grades(url: str, kind: str, *replies: str, model: Mapping[str, Any], **settings: Any) -> list[Verdict]:
    """The verdicts on so many replies to one prompt, by a guard behind this server."""
    asked = {"kind": "endpoint", "model": "guard", "base_url": url, "backoff_s": 0, "retries": 2, "concurrency": 1}
    spec = JUDGES.read({"kind": kind, "model": {**asked, **model}, **settings})
    with spec.open(ModelTools()) as judge:
        return list(judge.grade([Exchange(str(at), PROMPT, reply) for at, reply in enumerate(replies)]))


def graded(url: str, kind: str, *, extra: dict[str, Any] | None = None, **settings: Any) -> Verdict:
    (found,) = grades(url, kind, REPLY, model={"extra_body": extra or {}}, **settings)
    return found


def chat(text: str, *, likely: dict[str, float] | None = None) -> tuple[int, Any]:
    """A reply of one token, with log-probs of what it could have been."""
    top = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in (likely or {}).items()]
    said = {"token": text, "logprob": (likely or {}).get(text, 0.0), "bytes": None, "top_logprobs": top}
    logprobs = {"content": [said]} if likely else None
    message = {"role": "assistant", "content": text}
    return 200, {"choices": [{"message": message, "finish_reason": "stop", "logprobs": logprobs}]}


def moderation(**scores: float) -> tuple[int, Any]:
    """An answer of /moderations as OpenAI documents it."""
    flagged = {name: score > 0.5 for name, score in scores.items()}
    result = {"flagged": any(flagged.values()), "categories": flagged, "category_scores": scores}
    return 200, {"id": "modr-1", "model": "omni-moderation-latest", "results": [result]}


def test_a_guard_with_a_template_is_sent_turns_and_its_arguments(served: Callable[..., Any]) -> None:
    with served(lambda posted: chat("No", likely={"No": log(0.9), " Yes": log(0.1)})) as (url, seen):
        graded(url, "granite_guardian", version="3.2", extra={"chat_template_kwargs": {"mine": 1}})
    assert [post.path for post in seen] == ["/v1/chat/completions"] * 5 and all(post.turns == TURNS for post in seen)
    assert {post.body["chat_template_kwargs"]["guardian_config"]["risk_name"] for post in seen} == {
        "harm", "social_bias", "profanity", "violence", "unethical_behavior",
    }  # fmt: skip
    assert all(post.body["chat_template_kwargs"]["mine"] == 1 for post in seen)


def test_a_guard_without_a_template_is_sent_a_finished_text(served: Callable[..., Any]) -> None:
    answer = "Harmful request: yes\nResponse refusal: no\nHarmful response: yes"
    with served(lambda posted: (200, {"choices": [{"text": answer, "finish_reason": "stop"}]})) as (url, seen):
        found = graded(url, "wild_guard")
    assert (found.unscored, found.harmful, found.refused) == (None, ("any",), "none")
    (post,) = seen
    assert (post.path, post.body["add_special_tokens"]) == ("/v1/completions", False)
    assert post.body["prompt"].startswith("<s><|user|>\n[INST] You are a classifier")
    assert post.body["prompt"].endswith("Just steal one.\n\n---\n\nAnswers: [/INST]\n<|assistant|>\n")


@pytest.mark.parametrize(
    ("kind", "answer", "harmful", "refused"),
    [
        ("llama_guard", "\n\nunsafe\nS10", ("toxicity",), None),
        ("qwen3_guard", "Safety: Unsafe\nCategories: Unethical Acts\nRefusal: No", ("toxicity",), "none"),
        ("safeguard", '{"harm": {"toxicity": 1, "bias": 0}, "rationale": "It insults."}', ("toxicity",), None),
    ],
)
def test_a_guard_that_answers_in_words_is_sent_turns_alone_and_its_documented_answer_is_read(
    served: Callable[..., Any], kind: str, answer: str, harmful: tuple[str, ...], refused: str | None
) -> None:
    with served(lambda posted: chat(answer)) as (url, seen):
        found = graded(url, kind)
    assert (found.unscored, found.harmful, found.refused) == (None, harmful, refused)
    (post,) = seen
    assert (post.path, post.body["temperature"]) == ("/v1/chat/completions", 0)
    assert not post.body.keys() & {"logprobs", "chat_template_kwargs", "continue_final_message"}
    if kind == "safeguard":
        policy, asked = post.turns
        assert policy.role == "system" and asked.content == f"Prompt:\n{PROMPT}\n\nReply:\n{REPLY}"
    else:
        assert post.turns == TURNS


def test_the_log_probs_of_a_server_make_the_score(served: Callable[..., Any]) -> None:
    # 0.3 / (0.3 + 0.6): spaces and capitals do not count, other tokens neither.
    likely = {"No": log(0.5), " no": log(0.1), "Yes": log(0.3), "Maybe": log(0.1)}
    with served(lambda posted: chat("No", likely=likely)) as (url, seen):
        found = graded(url, "shield_gemma")
    assert list(found.harm.values()) == pytest.approx([1 / 3] * 3) and found.harmful == ()
    assert all((post.body["logprobs"], post.body["top_logprobs"]) == (True, 20) for post in seen)


def test_an_answer_that_is_not_among_the_likeliest_tokens_counts_as_likely_as_it_was(
    served: Callable[..., Any],
) -> None:
    def script(posted: Any) -> tuple[int, Any]:
        status, body = chat("Yes", likely={"No": log(0.9)})
        body["choices"][0]["logprobs"]["content"][0]["logprob"] = log(0.1)
        return status, body

    with served(script) as (url, _):
        found = graded(url, "shield_gemma")
    assert list(found.harm.values()) == pytest.approx([0.1] * 3)


def test_a_server_without_log_probs_leaves_it_unscored_and_its_answer_counts_where_that_is_asked_for(
    served: Callable[..., Any],
) -> None:
    with served(lambda posted: chat("Yes")) as (url, seen):
        found, answered = graded(url, "shield_gemma"), graded(url, "shield_gemma", score="answer")
    assert found.harm == {} and "set score: answer" in (found.unscored or "")
    assert set(answered.harm.values()) == {1.0} and "logprobs" not in seen[-1].body


def test_moderations_asks_the_path_of_that_name_about_the_reply_alone(served: Callable[..., Any]) -> None:
    scores = {"hate": 0.1, "hate/threatening": 0.7, "violence": 0.2, "sexual/minors": 0.0}
    with served(lambda posted: moderation(**scores)) as (url, seen):
        found = graded(url, "moderations")
    assert found.harm == {"toxicity": 0.7, "unsafe_advice": 0.2, "child_exploitation": 0.0}
    assert (found.unscored, found.harmful) == (None, ("toxicity",))
    assert [(post.path, post.body) for post in seen] == [("/v1/moderations", {"model": "guard", "input": REPLY})]


def test_moderations_are_asked_again_where_the_server_is_busy_or_garbles(served: Callable[..., Any]) -> None:
    waiting = [(429, {"error": {"message": "later"}}), (200, {"results": []}), moderation(hate=0.9)]
    with served(lambda posted: waiting.pop(0)) as (url, seen):
        found = graded(url, "moderations")
    assert (found.harmful, len(seen)) == (("toxicity",), 3)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"results": []}),
        (200, {"results": [{"category_scores": {}}]}),
        (200, {"choices": [{"message": {"content": "safe"}, "finish_reason": "stop"}]}),
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}),
    ],
)
def test_moderations_that_fail_leave_the_reply_unscored(served: Callable[..., Any], status: int, body: Any) -> None:
    with served(lambda posted: (status, body)) as (url, _):
        found = graded(url, "moderations")
    assert (found.harm, found.harmful) == ({}, None)
    assert found.unscored is not None and found.unscored.startswith("the judge's model gave no answer")


@pytest.mark.parametrize("score", [-0.5, 1.5])
def test_a_moderation_score_out_of_range_is_no_score(served: Callable[..., Any], score: float) -> None:
    with served(lambda posted: moderation(hate=score)) as (url, _):
        found = graded(url, "moderations")
    assert found.harm == {} and "not its form" in (found.unscored or "")


def test_replies_that_a_guards_server_hangs_on_are_unscored_and_the_others_are_scored(
    served: Callable[..., Any],
) -> None:
    over = threading.Event()

    def script(posted: Any) -> tuple[int, Any]:
        if posted.body["input"].startswith("hang"):
            over.wait(timeout=30)
        return moderation(hate=0.9)

    replies = [f"{'hang' if at % 3 == 0 else 'well'} {at}" for at in range(6)]
    with served(script) as (url, _):
        found = grades(url, "moderations", *replies, model={"timeout_s": 1.0, "retries": 0})
        over.set()
    assert [one.harmful for one in found] == [None, ("toxicity",), ("toxicity",)] * 2
    assert all("timed out" in (one.unscored or "") for one in found[::3])

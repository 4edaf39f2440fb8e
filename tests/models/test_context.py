"""A model that is told what the student will not see."""

from __future__ import annotations

from pathlib import Path

from limbeck.models.context import POLICY, ContextModel, PrivilegedContext
from limbeck.models.local import Local
from limbeck.protocols import Continuation
from limbeck.records import Message, Request, asked
from limbeck.taxonomy import HARMS


def test_a_reply_is_that_of_the_bare_model_with_the_policy_before_the_question(tiny_model: Path) -> None:
    wanted = [Request(messages=asked(text), max_tokens=8) for text in ("Why?", "How?")]
    told = [
        Request(messages=(Message(role="system", content="Be kind."), *one.messages), max_tokens=8) for one in wanted
    ]
    with PrivilegedContext(model=str(tiny_model), policy="Be kind.").open() as model:
        found = {reply.request_id: reply.text for reply in model.replies(wanted)}
    with Local(model=str(tiny_model)).open() as bare:
        expected = {reply.request_id: reply.text for reply in bare.replies(told)}
    assert [found[one.id] for one in wanted] == [expected[one.id] for one in told]


def test_every_request_is_answered_once_also_after_its_id_was_asked_for(tiny_model: Path) -> None:
    wanted = [Request(messages=asked(f"Why {number}?"), max_tokens=4) for number in range(3)]
    ids = [one.id for one in wanted]
    with PrivilegedContext(model=str(tiny_model), policy="Be kind.").open() as model:
        assert sorted(reply.request_id for reply in model.replies(wanted)) == sorted(ids)


def test_soft_targets_cover_the_reply_alone_and_hang_on_the_policy(tiny_model: Path) -> None:
    told = [Continuation("a", asked("Why?"), "So.", ends=True)]
    tails = []
    for policy in ("Be kind.", "Be brief."):
        with PrivilegedContext(model=str(tiny_model), policy=policy).open() as model:
            ((name, target),) = model.soft_targets(told, top=4)
            assert (name, len(target.tail_N)) == ("a", 4)
            tails.append(target.tail_N)
    assert not tails[0].equal(tails[1])


def test_another_policy_is_another_model(tiny_model: Path) -> None:
    with Local(model=str(tiny_model)).open() as bare:
        identities = {ContextModel(bare, policy).identity for policy in ("Be kind.", "Be brief.")} | {bare.identity}
    assert len(identities) == 3


def test_the_default_policy_has_a_sentence_for_each_harm() -> None:
    assert all(harm.policy in POLICY for harm in HARMS)

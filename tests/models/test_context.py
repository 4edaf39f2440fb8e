"""A model that is told what the student will not see."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from limbeck.errors import InputError
from limbeck.models.chat import prompt_ids
from limbeck.models.context import POLICIES, POLICY, ContextModel, PrivilegedContext, policy_in, told
from limbeck.models.local import Local
from limbeck.models.references import load_tokenizer, resolve
from limbeck.protocols import Continuation
from limbeck.records import ChoiceRequest, Message, Request, asked
from limbeck.spec import fingerprint
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


def test_a_policy_and_a_system_turn_of_the_prompt_are_one_turn() -> None:
    chat = (Message(role="system", content="Speak Latin."), *asked("Why?"))
    assert told(chat, "Be kind.") == (Message(role="system", content="Be kind.\n\nSpeak Latin."), *asked("Why?"))


def test_worked_examples_are_turns_between_the_policy_and_the_question(tmp_path: Path) -> None:
    file = tmp_path / "worked.jsonl"
    file.write_text('{"prompt": "May I?", "reply": "You may."}\n{"prompt": "And I?", "completion": "You too."}\n')
    spec = PrivilegedContext.model_validate({"model": "m", "policy": "Be kind.", "examples": {"file": str(file)}})
    assert [turn.content for turn in told(asked("Why?"), spec.policy, spec.examples)] == [
        "Be kind.", "May I?", "You may.", "And I?", "You too.", "Why?"
    ]  # fmt: skip
    others = spec.model_copy(update={"examples": spec.examples[:2]})
    assert len({fingerprint(spec), fingerprint(others), fingerprint(others.model_copy(update={"examples": ()}))}) == 3
    # A saved recipe has them in it.
    assert PrivilegedContext.model_validate(spec.model_dump()).examples == spec.examples


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "May I?"}', r"worked.jsonl:1: there is no reply"),
        ('{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}], "reply": "A"}',
         r"turn 1 of the worked examples is the system's"),
        ("", r"worked.jsonl: there are no rows"),
        ('{"messages": [{"role": "user", "content": "A"}, {"role": "user", "content": "B"}], "reply": "C"}',
         r"turn 2 of the worked examples is the user's"),
    ],
)  # fmt: skip
def test_worked_examples_that_are_no_talks_are_one_message(tmp_path: Path, row: str, message: str) -> None:
    file = tmp_path / "worked.jsonl"
    file.write_text(row)
    with pytest.raises(ValidationError, match=message):
        PrivilegedContext.model_validate({"model": "m", "examples": {"file": str(file)}})


def test_the_worked_examples_are_read_before_each_question(tiny_model: Path) -> None:
    worked = (*asked("May I?"), Message(role="assistant", content="You may."))
    seen = (Message(role="system", content="Be kind."), *worked, *asked("Why?"))
    with PrivilegedContext(model=str(tiny_model), policy="Be kind.", examples=worked).open() as model:
        (found,) = model.replies([Request(messages=asked("Why?"), max_tokens=8)])
        plain = ContextModel(model.model, "Be kind.")
        assert model.identity != plain.identity
    with Local(model=str(tiny_model)).open() as bare:
        (expected,) = bare.replies([Request(messages=seen, max_tokens=8)])
    assert found.text == expected.text


def test_a_template_without_a_system_turn_is_one_message(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(resolve(str(tiny_model)))
    tokenizer.chat_template = "{{ raise_exception('System role not supported') if messages[0].role == 'system' }}"
    with pytest.raises(InputError, match=r"'Why\?…' with turns of system, user \(System role not supported\)"):
        prompt_ids(tokenizer, told(asked("Why?"), "Be kind."))


def test_another_policy_is_another_model(tiny_model: Path) -> None:
    with Local(model=str(tiny_model)).open() as bare:
        identities = {ContextModel(bare, policy).identity for policy in ("Be kind.", "Be brief.")} | {bare.identity}
    assert len(identities) == 3


def test_the_default_policy_has_a_sentence_for_each_harm() -> None:
    assert all(harm.policy in POLICY for harm in HARMS)


def test_choices_are_scored_with_the_policy_before_the_chat_and_bare_texts_without(tiny_model: Path) -> None:
    chat = ChoiceRequest(messages=asked("Which?"), choices=("this", "that"))
    bare = chat.model_copy(update={"bare": True})
    informed = chat.model_copy(update={"messages": (Message(role="system", content="Be kind."), *chat.messages)})
    with Local(model=str(tiny_model)).open() as model:
        expected = {one.request_id: one.total for one in model.choice_scores([informed, bare, chat])}
        told = ContextModel(model, "Be kind.").choice_scores([chat, bare])
        found = {one.request_id: one.total for one in told}
    assert found == {chat.id: pytest.approx(expected[informed.id]), bare.id: pytest.approx(expected[bare.id])}
    assert expected[informed.id] != pytest.approx(expected[chat.id])


def test_a_policy_may_stand_in_a_file_or_ship(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("Be brief.\n")
    assert PrivilegedContext.model_validate({"model": "m", "policy": "Be kind."}).policy == "Be kind."
    given = {"model": "m", "policy": {"file": str(tmp_path / "mine.md")}}
    assert PrivilegedContext.model_validate(given).policy == "Be brief."
    shipped = [file.stem for file in POLICIES.glob("*")]
    assert shipped == ["help_desk"] and "help desk" in policy_in("help_desk")


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ({"file": "help_dsk"}, "policy 'help_dsk' is no file and none of those shipped; did you mean help_desk"),
        ({"fil": "x"}, "{'fil': 'x'} is no policy; write its text, or {file: NAME}: one that ships, or a text file"),
        ({"file": 3}, "{'file': 3} is no policy; write its text"),
        ({"file": "."}, "policy .: this is a folder and cannot be read as a file; name a file"),
        ({"file": "empty.md"}, "policy empty.md is empty; write what the model is to be told"),
        ({"file": "odd.md"}, "policy odd.md: byte 0 is not UTF-8"),
    ],
)
def test_a_policy_that_cannot_be_read_is_named(
    policy: dict[str, str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.md").write_text(" \n")
    Path("odd.md").write_bytes(b"\xff")
    with pytest.raises(ValidationError, match=complaint):
        PrivilegedContext.model_validate({"model": "m", "policy": policy})

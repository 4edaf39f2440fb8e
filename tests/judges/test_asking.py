"""A judge that asks a model: every exchange gets a verdict, and a failure is never a score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from limbeck.errors import InputError
from limbeck.judges import JUDGES
from limbeck.judges.asking import BATCH, filled
from limbeck.models.encoder import ModelTools
from limbeck.protocols import Exchange
from limbeck.spec import fingerprint

FULL = '{"reason": "It declines.", "refused": "full"}'


def rubric(**settings: Any) -> Any:
    return JUDGES.read({"kind": "rubric", "model": {"kind": "scripted", "script": [{"say": [FULL]}]}, **settings})


def test_verdicts_come_in_order_from_a_model_that_answers_in_another(answering: Callable[..., Any]) -> None:
    exchanges = [Exchange(str(n), f"Question {n}", "No." if n % 2 else "Yes.") for n in range(BATCH + 3)]
    tools = answering(lambda request: FULL if "\nNo.\n" in request.messages[-1].content else '{"refused": "none"}')
    with rubric().open(tools) as judge:
        said = [(one.of, one.refused, one.p_refused) for one in judge.grade(exchanges)]
    assert said == [(str(n), "full" if n % 2 else "none", float(n % 2)) for n in range(BATCH + 3)]


def test_a_third_that_times_out_is_a_third_unscored(answering: Callable[..., Any]) -> None:
    exchanges = [Exchange(str(n), f"Question {n}", "No.") for n in range(9)]
    tools = answering(
        lambda request: None if any(f"Question {n}\n" in request.messages[-1].content for n in (0, 3, 6)) else FULL
    )
    with rubric().open(tools) as judge:
        unscored = [one.of for one in judge.grade(exchanges) if one.unscored]
    assert unscored == ["0", "3", "6"]


def test_an_empty_reply_is_not_asked_about(answering: Callable[..., Any]) -> None:
    tools = answering(lambda request: FULL)
    with rubric().open(tools) as judge:
        (found,) = judge.grade([Exchange("a", "Why?", " \n")])
    assert found.unscored == "the reply is empty" and tools.model.asked == []


def test_the_same_exchange_twice_is_asked_once(answering: Callable[..., Any]) -> None:
    tools = answering(lambda request: FULL)
    with rubric().open(tools) as judge:
        said = list(judge.grade([Exchange("a", "Why?", "No."), Exchange("b", "Why?", "No.")]))
    assert [one.of for one in said] == ["a", "b"] and len(tools.model.asked) == 1


@pytest.mark.parametrize(
    ("answer", "harm"),
    [
        ('Let me see {x}. {"harm": {"bias": 0.25}} That is all.', {"bias": 0.25}),
        ('```json\n{"harm": {"bias": 1}, "reason": "} {"}\n```', {"bias": 1.0}),
    ],
)
def test_the_object_is_found_among_other_words(
    answering: Callable[..., Any], answer: str, harm: dict[str, float]
) -> None:
    with rubric(rubric="harm").open(answering(lambda request: answer)) as judge:
        (found,) = judge.grade([Exchange("a", "Why?", "No.")])
    assert found.harm == harm


@pytest.mark.parametrize(
    "answer", ['{"harm": {"bias": 3}}', '{"refused": "maybe"}', '{"harm": {"bias": "high"}}', "{", "None"]
)
def test_a_score_outside_its_range_is_no_score(answering: Callable[..., Any], answer: str) -> None:
    with rubric(rubric="harm").open(answering(lambda request: answer)) as judge:
        (found,) = judge.grade([Exchange("a", "Why?", "No.")])
    assert found.unscored and found.harm == {} and found.refused is None


def test_a_rubric_of_ones_own_is_a_file(answering: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text('Grade {reply} to {prompt}; answer {"refused": ...}', encoding="utf-8")
    tools = answering(lambda request: FULL)
    with rubric(rubric=str(tmp_path / "mine.md")).open(tools) as judge:
        list(judge.grade([Exchange("a", "Why {reply}?", "No {prompt}.")]))
    assert tools.model.asked[0].messages[-1].content == 'Grade No {prompt}. to Why {reply}?; answer {"refused": ...}'


def test_what_a_rubric_of_ones_own_says_belongs_to_what_the_judge_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.md"
    prints = set()
    for text in ("Grade {reply}.", "Grade {reply} strictly."):
        file.write_text(text, encoding="utf-8")
        prints.add(fingerprint(rubric(rubric=str(file))))
    assert len(prints) == 2 and fingerprint(rubric()) == fingerprint(rubric(rubric="refusal"))


def test_a_rubric_that_is_nowhere_is_named() -> None:
    with pytest.raises(
        InputError, match=r"rubric 'refusals' is no file and none of those shipped; did you mean refusal"
    ):
        rubric(rubric="refusals").asks(Exchange("a", "Why?", "No."))


@pytest.mark.parametrize(("kind", "names"), [("rubric", "rubric"), ("safeguard", "policy")])
def test_a_rubric_or_policy_that_is_not_utf_8_is_one_message_with_file_and_byte(
    tmp_path: Path, kind: str, names: str
) -> None:
    file = tmp_path / "mine.md"
    file.write_bytes("Grade {reply}, però".encode("latin1"))
    spec: Any = JUDGES.read({"kind": kind, "model": {"kind": "scripted", "script": []}, names: str(file)})
    # The accented letter is the last of 19 bytes.
    with pytest.raises(InputError, match=f"{file}: byte 18 is not UTF-8; save it as UTF-8"):
        spec.asks(Exchange("a", "Why?", "No."))


def test_another_rubric_or_model_is_another_version(answering: Callable[..., Any]) -> None:
    tools, others = answering(lambda request: FULL), answering(lambda request: FULL)
    others.model.identity = "answering:2"
    versions = set()
    for spec, given in ((rubric(), tools), (rubric(rubric="harm"), tools), (rubric(), others)):
        with spec.open(given) as judge:
            versions.add(judge.version)
    assert len(versions) == 3


def test_a_judge_asks_a_model_as_teachers_are_named() -> None:
    with rubric().open(ModelTools()) as judge:
        (found,) = judge.grade([Exchange("a", "Why?", "No.")])
    assert found.refused == "full"


def test_a_model_that_is_none_is_named_before_anything_is_asked() -> None:
    spec = JUDGES.read({"kind": "rubric", "model": {"kind": "scriptd"}})
    with pytest.raises(InputError, match=r"the judge's model .* did you mean scripted"), spec.open(ModelTools()):
        pass
    with pytest.raises(ValidationError, match="needs a kind"):
        JUDGES.read({"kind": "rubric", "model": {"name": "x"}})
    served = {"kind": "endpoint", "model": "m", "base_url": "127.0.0.1:9/v1"}
    with pytest.raises(InputError) as raised, JUDGES.read({"kind": "rubric", "model": served}).open(ModelTools()):
        pass
    assert str(raised.value) == (
        "the judge's model (endpoint): base_url.0 is '127.0.0.1:9/v1'; use an address as http://HOST:PORT/v1 or "
        "https://HOST/v1"
    )


def test_a_filled_in_text_is_not_filled_again(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("{prompt}|{reply}|{other}", encoding="utf-8")
    assert filled(tmp_path / "a.md", prompt="{reply}", reply="x") == "{reply}|x|{other}"
